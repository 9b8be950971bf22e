"""The loss around the weights."""
