"""Going on from what a crash or damage has left."""
