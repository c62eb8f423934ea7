"""Carry out a changeover, a step at a time: each idempotent, each committed before the next.

Any worker can take over after any crash: a step trusts only the database, Placement and the
device. Before a device is programmed it is fenced, settled and seen idle; after it was
programmed it is seen idle again before anything is published.

The ``runner`` takes a changeover from step to step, each in a file of its own: ``begin``,
``fence``, ``settle``, ``program`` with its ``outcome``, ``verify``, ``publish``, ``done``; the
ways out are ``unfence`` and ``quarantine``.
"""

from changeover.worker.carry_out.runner import CarryOut

__all__ = ["CarryOut"]
