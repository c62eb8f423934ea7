"""Whatever an operator's catalog says: it is loaded, or refused with what is wrong where."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from changeover.models.catalog import Catalog
from changeover.models.errors import Invalid
from changeover.worker.catalog_file import load_catalog
from changeover.worker.simulator.fleet import Shape, catalog_yaml

LONG = os.environ.get("CHANGEOVER_LONG") == "1"
TEXT = catalog_yaml(Shape(hosts=1, fpga_cards=2, gpus=1, dynamic_cards=1, regions=1))
LINES = TEXT.splitlines(keepends=True)

SNIPPETS = st.one_of(
    st.sampled_from([
        "{", "}", "[", "]", ":", "- ", "&a ", "*a", "<<: *a", "!!python/object:os.system ", "? ",
        "null", "~", "1e999", ".nan", ".inf", "0x1F", "0o17", "2001-01-01", "yes", "'", '"', "|",
        ">-", "\t", "\x00", "\ufeff", "\u2028", "---\n", "...\n", "%YAML 9.9\n", "#", "-1", "0",
        "!!int ", "!!float ", "!!timestamp ", "!!set ",
        "99999999999999999999", "true", "''", "[]", "{}", "x: {x: {x: {x: {}}}}", "\n", "  ",
    ]),
    st.text(max_size=8),
)  # fmt: skip


@st.composite
def _mutated(draw: st.DrawFn) -> str:
    """The embedded cloud's catalog, with a few lines moved and a few pieces replaced."""
    lines = list(LINES)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        how = draw(st.sampled_from(["drop", "double", "swap"]))
        if how == "drop":
            del lines[at]
        elif how == "double":
            lines.insert(at, lines[draw(st.integers(0, len(lines) - 1))])
        else:
            to = draw(st.integers(0, len(lines) - 1))
            lines[at], lines[to] = lines[to], lines[at]
    text = "".join(lines)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(SNIPPETS) + text[at + draw(st.integers(0, 6)) :]
    return text


def _loads(text: str | bytes) -> None:
    try:
        catalog = load_catalog(text)
    except Invalid as refused:
        assert "catalog.yaml" in refused.message  # noqa: PT017 - most inputs are fine, only a refusal is looked at
        return
    assert isinstance(catalog, Catalog)
    for device in catalog.devices:
        assert device.model in catalog.models


@settings(
    max_examples=50_000 if LONG else 150,
    deadline=None,
    database=None,
    derandomize=not LONG,
    suppress_health_check=list(HealthCheck),
)
@given(_mutated())
@example("%YAML 9.9\n---\nmodels: {}\n")
@example("models: {x: {slots: !!int ''}}\n")
def test_mutated_catalogs(text: str) -> None:
    _loads(text)


@settings(max_examples=50_000 if LONG else 150, deadline=None, database=None, derandomize=not LONG)
@given(st.one_of(st.binary(max_size=300), st.text(max_size=300)))
def test_anything_at_all(text: str | bytes) -> None:
    _loads(text)
