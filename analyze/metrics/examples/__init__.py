"""How hard single examples are."""
