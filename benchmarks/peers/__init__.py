"""One synthetic task and one file per training loop, with the same interface, networks and start weights."""
