"""Norms and capacities of the weights."""
