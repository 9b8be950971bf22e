"""What the layers make of the examples."""
