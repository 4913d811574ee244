"""What any run needs of the machine: its directory, atomic files, processes, signals, clear errors."""
