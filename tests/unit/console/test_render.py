"""Tables on terminals: names stay whole, however narrow it is."""

from __future__ import annotations

import io
import re
import sys

import pytest

from changeover.console.render import Column, Output

COLUMNS = [Column("device", "device"), Column("slots", "slots", right=True), Column("why", "why")]
WHY = "nobody asked for it, and what is on it is worth more than a blank"
ROWS = [{"device": "fpga-of-the-host-1", "slots": 2, "why": WHY}]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, width: int, rows: list[dict[str, object]]) -> list[str]:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    Output().table(rows, COLUMNS)
    return re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue()).splitlines()


def test_text_goes_on_below_and_names_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(monkeypatch, 70, ROWS)
    assert max(map(len, lines)) <= 70
    assert lines[2].startswith("fpga-of-the-host-1")
    assert len(lines) > 3  # the reason is folded
    assert "".join(line[29:].strip() for line in lines[2:]).replace(" ", "") == WHY.replace(" ", "")


def test_a_table_that_just_fits_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[dict[str, object]] = [{"device": "d" * 10, "slots": 2, "why": "w" * 9}]
    exact = 10 + 3 + 5 + 3 + 9
    assert shown(monkeypatch, exact, rows)[1] == "─" * exact
    assert len(shown(monkeypatch, exact - 1, rows)) == 2


def test_a_terminal_too_narrow_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(monkeypatch, 40, ROWS)
    assert lines[1] == f"fpga-of-the-host-1      2  {WHY}"


def test_without_standard_output_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    Output().table(ROWS, COLUMNS)
