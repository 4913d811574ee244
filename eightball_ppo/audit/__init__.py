"""What a grader is asked before anything is trained on it (`probes`), and what its answers say of it (`measures`)."""
