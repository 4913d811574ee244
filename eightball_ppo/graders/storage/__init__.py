"""Where grades are kept and read: the grade store, exported tables, and sources made of other sources."""
