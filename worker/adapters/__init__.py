"""The concrete parts behind the ports."""
