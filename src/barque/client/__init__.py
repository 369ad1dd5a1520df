"""TODO layer."""
