"""How the gradients of examples agree."""
