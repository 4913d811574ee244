"""The small classifier: configuration and modelling files that travel to the Hub with the weights."""
