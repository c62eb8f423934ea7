"""One host, two names: Nova's service goes by ``[DEFAULT] host``, its provider by its hypervisor.

Often one is the first part of the other: ``cmp1`` and ``cmp1.example.org``.
"""

from __future__ import annotations


def same_host(one: str, other: str) -> bool:
    """Whether they are one name, or one is the first part of the other."""
    return other in {one, one.partition(".")[0]} or one == other.partition(".")[0]
