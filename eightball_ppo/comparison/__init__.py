"""Every method on the same grades: the grid, its runs, their statistics."""
