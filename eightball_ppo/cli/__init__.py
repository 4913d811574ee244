"""The commands, the parser of their flags, and the exit codes."""
