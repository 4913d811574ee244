"""What goes to the Hugging Face Hub: cards made from a run's records, and uploads that were asked for."""
