"""The commands that print the numbers in the documents."""
