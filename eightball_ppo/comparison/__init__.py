"""Comparison of methods on the same grades: the grid, its runs, their statistics."""
