"""How Celery's processes are begun, by whoever begins them; nothing heavy is imported for it."""

from __future__ import annotations

import sys

CELERY = (sys.executable, "-m", "celery", "--quiet", "--app", "changeover.worker.app")
"""Quiet: a banner among the log's lines is none of them."""

WORKER_FLAGS = ("--without-gossip", "--without-mingle", "--without-heartbeat")
