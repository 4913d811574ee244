"""The commands behind the numbers in the documents."""
