"""Real services started on loopback, so that nothing has to be installed beforehand."""
