"""Names that may have been meant: nearest by edits, or the same words put differently."""

from __future__ import annotations

from collections.abc import Iterable

MOST_EDITS = 0.25
"""Edits up to this share of a name's length may be a slip; two always may."""


def distance(one: str, other: str) -> int:
    """Edits between two names: a letter added, dropped, changed, or swapped with the next.

    Optimal string alignment, the restricted form of Damerau and Levenshtein's distance: no part
    is edited twice.
    """
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        row = [i]
        for j, there in enumerate(other, 1):
            edits = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (letter != there))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == there:
                edits = min(edits, before[j - 2] + 1)
            row.append(edits)
        before, last = last, row
    return last[-1]


def nearest(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """The known names that ``name`` may stand for, the likeliest first.

    Names drift: a prefix comes or goes, words change places or are run together. So the whole
    names are compared, and their words without ``CUSTOM_``: as written, and in order.
    """
    found = []
    for other in set(known) - {name}:
        edits = min(distance(*pair) for pair in zip(_forms(name), _forms(other), strict=True))
        words, theirs = set(_words(name)), set(_words(other))
        within = bool(words and theirs) and (words <= theirs or theirs <= words)
        if edits <= max(2, MOST_EDITS * min(len(name), len(other))):
            found.append((edits, other))
        elif within:
            found.append((len(words ^ theirs) + edits, other))
    return [other for _, other in sorted(found)[:most]]


def _words(name: str) -> list[str]:
    return [word for word in name.upper().removeprefix("CUSTOM_").split("_") if word]


def _forms(name: str) -> tuple[str, str, str]:
    words = _words(name)
    return name, "".join(words), "".join(sorted(words))
