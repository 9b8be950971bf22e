"""One observer of the user's forward pass."""
