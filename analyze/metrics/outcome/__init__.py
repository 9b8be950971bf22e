"""How well the network does: loss, error, margins."""
