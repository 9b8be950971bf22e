"""Ratios of tracer against peers and physical limits, measured side by side."""
