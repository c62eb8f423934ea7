"""Changeover: the reactive pool manager for accelerators."""
