"""The audit of a grader before anything is trained on it."""
