"""Storage of grades: the grade store, exported tables, and the sources of scores that read them."""
