"""Tables on the terminal and figures in the run directory."""
