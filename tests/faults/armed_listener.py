"""The listener's entry with points armed: ``python -m faults.armed_listener``."""

from __future__ import annotations

from faults.points import from_environment

from changeover.worker.listener import run
from changeover.worker.settings import load_settings

if __name__ == "__main__":
    from_environment()
    run(load_settings())
