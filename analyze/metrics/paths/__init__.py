"""Which units are on: paths of examples through the network."""
