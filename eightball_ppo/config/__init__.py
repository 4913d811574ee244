"""Every option of every command, and the table of methods. Nothing here imports torch."""
