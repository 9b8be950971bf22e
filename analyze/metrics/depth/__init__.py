"""How complex an example is, and how deep its signal changes."""
