"""Every metric, one quantity (or close family) per file."""
