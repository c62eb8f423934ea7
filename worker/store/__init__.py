"""The database is the truth: every row is written and read here, and nowhere else."""

from changeover.worker.store.database import Database, Tx
from changeover.worker.store.session import Hint

__all__ = ["Database", "Hint", "Tx"]
