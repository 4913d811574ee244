"""What TRL reads, calls and stores: a classifier as a language model of one-token answers."""
