"""Cyborg's agent, reporting every ``$SIMCARDS_REPORT_SECONDS``.

Cyborg reports every 60 s and has no setting for that. Nothing else is changed.
"""

from __future__ import annotations

import os
import sys

from oslo_service import periodic_task

# Read when the manager's class is made, hence before it is imported.
periodic_task.DEFAULT_INTERVAL = float(os.environ["SIMCARDS_REPORT_SECONDS"])

from cyborg.cmd.agent import main  # noqa: E402 - see above

if __name__ == "__main__":
    sys.exit(main())
