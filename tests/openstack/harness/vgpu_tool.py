"""A vendor's tool for simulated pGPUs: ``vgpu_tool.py HOME set ADDRESS TYPE | get ADDRESS``.

``HOME`` holds one file a pGPU with the type that it is set to, and ``journal.jsonl`` with one
line when a change begins and one when it ends. Setting takes a second.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def main(home: Path, verb: str, address: str, vgpu_type: str = "") -> None:
    """Set or print a pGPU's type."""
    card = home / address
    if verb == "get":
        sys.stdout.write(card.read_text() if card.exists() else "")
        return
    facts = {"card": address, "function": vgpu_type}
    with (home / "journal.jsonl").open("a") as journal:
        journal.write(json.dumps({**facts, "event": "begin", "at": time.time()}) + "\n")
        journal.flush()
        time.sleep(1.0)
        card.write_text(vgpu_type)
        journal.write(
            json.dumps({**facts, "event": "end", "loaded": True, "at": time.time()}) + "\n"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
