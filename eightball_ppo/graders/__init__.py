"""Graders: anything that scores answers. `base.py` is the protocol, every other file one member or helper."""
