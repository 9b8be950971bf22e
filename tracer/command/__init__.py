"""What the command line prints with."""
