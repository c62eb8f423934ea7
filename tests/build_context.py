"""What `docker build` sends to the builder: the files that .dockerignore lets through."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path


def build_context(root: Path) -> Iterator[Path]:
    """Every file and link, relative to ``root``. Folders without a file that is sent are none."""
    rules = [
        (_regex(line.removeprefix("!")), not line.startswith("!"))
        for line in (root / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]

    def ignored(path: Path) -> bool:
        last = False
        for pattern, ignores in rules:
            if any(pattern.fullmatch(str(p)) for p in (path, *path.parents)):
                last = ignores
        return last

    for folder, subfolders, files in os.walk(root):
        here = Path(folder).relative_to(root)
        links = [name for name in subfolders if (root / here / name).is_symlink()]
        yield from (here / name for name in (*links, *files) if not ignored(here / name))
        subfolders[:] = [n for n in subfolders if n not in links and not ignored(here / n)]


def _regex(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*/|\*)", pattern)
    meanings = {"**/": "(?:.*/)?", "*": "[^/]*"}
    return re.compile("".join(meanings.get(part) or re.escape(part) for part in parts))
