"""Barque."""
