"""What the services run on: an environment of their own, made once and kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from changeover.worker import flock

FOLDER = Path(__file__).resolve().parent.parent
REQUIREMENTS = FOLDER / "requirements.txt"
PLUGINS = FOLDER / "plugins"
TREE = FOLDER.parent.parent

_INSTALL_SECONDS = 1800


def cache() -> Path:
    """Where environment and empty schemas are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "changeover-openstack"


def fingerprint() -> str:
    """Changes with the pinned versions and the Python: what is kept under it fits both."""
    text = REQUIREMENTS.read_bytes() + sys.version.encode()
    return hashlib.sha256(text).hexdigest()[:12]


def environment() -> Path:
    """The virtual environment with the pinned versions; made if it is not there yet."""
    home = cache() / "venv-{}.{}".format(*sys.version_info)
    done = home / "installed"
    home.parent.mkdir(parents=True, exist_ok=True)
    with flock.hold(home.with_suffix(".lock"), wait_seconds=_INSTALL_SECONDS):
        if done.exists() and done.read_text() == fingerprint():
            return home
        print(f"installing OpenStack into {home}: some minutes, once", flush=True)  # noqa: T201 - who waits wants to know for what
        _run([sys.executable, "-m", "venv", home])
        pip = [home / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "--quiet"]
        # The list is complete: nothing is resolved, and what has no wheel is pure Python.
        _run([*pip, "install", "--no-deps", "--requirement", REQUIREMENTS])
        done.write_text(fingerprint())
    return home


def _run(argv: list[str | Path]) -> None:
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{argv} failed: {(done.stdout + done.stderr)[-2000:]}")
