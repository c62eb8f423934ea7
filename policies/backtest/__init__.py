"""Policies tried on recorded workloads, in virtual time."""
