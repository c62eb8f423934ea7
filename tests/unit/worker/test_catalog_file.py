"""A bad catalog is told all its problems at once, each with file, line, column and field."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from changeover.models.errors import Invalid
from changeover.worker.catalog_file import MAX_BYTES, load_catalog, load_catalog_file

GOOD = """
programmers:
  sim: {kind: simulated}
models:
  u.50: {programmer: sim}
functions:
  aes:
    traits: [CUSTOM_AES]
    resource_class: CUSTOM_FPGA
    artifact: {image: aes.bit, sha256: "%s"}
    fits: {u.50: 1}
devices:
  - name: d1
    provider: 00000000-0000-0000-0000-000000000001
    model: u.50
    host: 2026-01-01
pools:
  aes: {min_free: 2, mode: approve}
""" % ("0" * 64)


NO_NUMBER = (
    "5:27: models.u.50.slots: Input should be a valid integer, unable to parse string as an integer"
)


def problems(text: str | bytes) -> list[str]:
    with pytest.raises(Invalid) as caught:
        load_catalog(text, "c.yaml")
    lines = caught.value.message.splitlines()
    assert caught.value.facts["problems"] == lines
    assert all(line.startswith("c.yaml:") for line in lines)
    return [line.removeprefix("c.yaml:") for line in lines]


def test_a_good_catalog() -> None:
    catalog = load_catalog(GOOD)
    assert catalog.models["u.50"].name == "u.50"
    assert catalog.devices[0].host == "2026-01-01"
    assert catalog.pool("aes").min_free == 2


def test_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(GOOD)
    assert load_catalog_file(path) == load_catalog(GOOD)
    with pytest.raises(Invalid, match="No such file"):
        load_catalog_file(tmp_path / "none.yaml")
    with pytest.raises(Invalid, match="directory"):
        load_catalog_file(tmp_path)
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(Invalid, match="longer than"):
        load_catalog_file(path)


def test_all_problems_of_fields_at_once_in_order_of_lines() -> None:
    bad = (
        GOOD.replace("programmer: sim", "programmer: sim, slots: many")
        .replace("    resource_class: CUSTOM_FPGA\n", "")
        .replace("host:", "hots:")
        .replace("min_free: 2", "min_free: -2")
    )
    assert problems(bad) == [
        NO_NUMBER,
        "7:3: functions.aes.resource_class: is missing",
        "12:5: devices.0.host: is missing",
        "15:5: devices.0.hots: there is no such field",
        "17:9: pools.aes.min_free: Input should be greater than or equal to 0",
    ]


def test_all_inconsistencies_at_once() -> None:
    device = "  - {name: d1, provider: 00000000-0000-0000-0000-000000000002, model: x, host: h}\n"
    bad = (
        GOOD.replace("programmer: sim", "programmer: sin")
        .replace("pools:", device + "pools:")
        .replace("aes: {min", "aes.x: {min")
    )
    assert problems(bad) == [
        "5:10: models.u.50.programmer: no programmer sin",
        "17:5: devices.1: d1 is already devices.0",
        "17:64: devices.1.model: no model x",
        "19:3: pools.aes.x: no function aes.x",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "1:1: is empty"),
        ("just text", "1:1: the file: must be a mapping"),
        ("a: [", "1:5: is not YAML: while parsing a flow node"),
        ("a: b: c", "1:5: is not YAML: mapping values are not allowed here"),
        ("a: 1\nb:\n  c: 1\n  c: 2\na: 3", "4:3: b.c: is there twice, first on line 3"),
        ("a: !!python/object:os.system x", "1:4: a: the tag "),
        ("a: !!binary x", "1:4: a: the tag "),
        ("a: !!int x", "1:4: a: is not a value of its kind"),
        ("[a]: 1", "1:1: the file: a key must be a name"),
        ("a: &x [*x]", "1:4: a.0.0: has more than"),
        ("[" * 30 + "]" * 30, "has more than"),
        ("[" * 20_000, "has more than"),
        (b"\xff", "1:1: is not UTF-8 at byte 0"),
        ("\x00", "1:1: is not YAML"),
    ],
)
def test_what_is_not_a_mapping_of_plain_values(text: str | bytes, problem: str) -> None:
    assert any(problem in line for line in problems(text))


def test_every_duplicate_key_is_named() -> None:
    assert len(problems("a: 1\na: 2\nb: 1\nb: 2")) == 2


def test_few_lines_that_expand_to_very_many_values() -> None:
    lines = ["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert "has too many values" in problems("\n".join(lines))[0]


@given(st.text(st.sampled_from("ab1:-,[]{}&*!|>'\"# \n\t"), max_size=60))
def test_any_text_is_a_catalog_or_invalid(text: str) -> None:
    with pytest.raises(Invalid):
        load_catalog(text)
