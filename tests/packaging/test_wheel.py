"""What people install: the wheel has everything, and its command runs without this tree."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from build_context import build_context

ROOT = Path(__file__).parents[2]
PACKAGES = ("models", "policies", "worker", "console")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built offline from what the image is built from, copied: nothing is left here."""
    pytest.importorskip("setuptools", minversion="80")
    tree = tmp_path_factory.mktemp("tree") / "changeover"
    for path in build_context(ROOT):
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, tree / path, follow_symlinks=False)
    out = tree.parent / "dist"
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    subprocess.run(
        [*command, "--no-build-isolation", "--wheel-dir", str(out), str(tree)],
        check=True,
        capture_output=True,
        text=True,
        timeout=150,
    )
    [made] = out.glob("*.whl")
    return made


def test_the_wheel_has_every_module_and_every_file_that_is_read(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            assert f"changeover/{path.relative_to(ROOT)}" in inside
    assert "changeover/py.typed" in inside
    assert "changeover/worker/migrations/script.py.mako" in inside
    assert any(name.startswith("changeover/worker/migrations/versions/0001") for name in inside)
    for name in inside:
        top, _, rest = name.partition("/")
        assert top == "changeover" or top.endswith(".dist-info"), name
        if top == "changeover":
            assert rest.partition("/")[0] in {*PACKAGES, "__init__.py", "py.typed"}, name


def test_its_metadata(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    [name] = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
    metadata = archive.read(name).decode()
    assert "\nRequires-Python: <3.14,>=3.11\n" in metadata
    assert "\nProvides-Extra: embedded\n" in metadata
    assert "# Changeover" in metadata
    assert "file:" not in metadata
    entry = archive.read(name.replace("METADATA", "entry_points.txt")).decode()
    assert "changeover = changeover.console.cli:main" in entry


def test_its_command_runs_from_an_environment_without_this_tree(
    wheel: Path, tmp_path: Path
) -> None:
    """Its dependencies are taken from here; nothing of ``changeover`` is."""
    clean = tmp_path / "clean"
    venv.create(clean, with_pip=False, symlinks=True)
    command = [sys.executable, "-m", "pip", "--python", str(clean / "bin" / "python")]
    subprocess.run(
        [*command, "install", "--quiet", "--no-deps", "--no-index", str(wheel)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    [site] = clean.glob("lib/python3.*/site-packages")
    here = Path(next(p for p in sys.path if p.endswith("site-packages")))
    for entry in here.iterdir():
        if "changeover" not in entry.name and not (site / entry.name).exists():
            (site / entry.name).symlink_to(entry)
    for editable in site.glob("__editable__*"):
        editable.unlink()
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LANG": "C.UTF-8"}

    def run(*words: str) -> str:
        told = subprocess.run(
            [clean / "bin" / "changeover", *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env=env,
            timeout=60,
        )
        assert told.returncode == 0, told.stderr
        return told.stdout

    assert run("--version").startswith("changeover ")
    assert "upgraded the database" in run("db", "upgrade")
    assert "nothing: start `changeover up`" in run("status")
    code = f"import changeover.{', changeover.'.join(PACKAGES)}; print(changeover.models.__file__)"
    where = subprocess.run(
        [clean / "bin" / "python", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=env,
    ).stdout
    assert Path(where.strip()).is_relative_to(site)
