"""Uploads to the Hugging Face Hub: cards made from the records of a run, and the files of a repository."""
