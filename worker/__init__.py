"""What happens: the Celery app, the steps, the sweeps, the ports and their adapters."""
