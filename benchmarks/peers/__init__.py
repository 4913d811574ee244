"""One synthetic task, and one file for every loop that is trained on it: the same interface, networks and weights."""
