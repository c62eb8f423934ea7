"""Judges what happened, by the databases of Nova and Placement and the cards' own journal.

Nothing of the product is imported or asked. Placement's database keeps no history: triggers
write one, of which neither Placement nor anybody else knows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.client import Cloud

_TABLE = """
    create table if not exists allocation_history
    (id bigint auto_increment primary key, at double, came boolean, provider int,
     consumer varchar(36))
"""
_CAME = """
    create trigger if not exists history_of_inserts after insert on allocations for each row
    insert into allocation_history (at, came, provider, consumer)
    values (unix_timestamp(sysdate(6)), true, new.resource_provider_id, new.consumer_id)
"""
_WENT = """
    create trigger if not exists history_of_deletes after delete on allocations for each row
    insert into allocation_history (at, came, provider, consumer)
    values (unix_timestamp(sysdate(6)), false, old.resource_provider_id, old.consumer_id)
"""
_CARDS = "select name, id from resource_providers where name like '%%_simcard_%%'"
_RESERVED = (
    "select p.name, i.reserved from inventories i"
    " join resource_providers p on p.id = i.resource_provider_id"
    " where p.name like '%%_simcard_%%' and i.reserved > 0"
)


@dataclass(frozen=True)
class Span:
    """Something about a card that lasted; ``who`` is a consumer or a function."""

    card: str
    who: str
    begin: float
    end: float = float("inf")

    def meets(self, other: Span) -> bool:
        """Whether both were at the same time on the same card."""
        return self.card == other.card and self.begin < other.end and other.begin < self.end


def remember(cloud: Cloud) -> None:
    """Let Placement's database keep the history of its allocations from now on."""
    for statement in (_TABLE, _CAME, _WENT):
        cloud.rows("placement", statement)


def uses(cloud: Cloud) -> list[Span]:
    """Who had which card, and when."""
    names = {row["id"]: _key(row["name"]) for row in cloud.rows("placement", _CARDS)}
    rows = cloud.rows("placement", "select * from allocation_history order by id")
    return spans_of_uses(row | {"card": names[row["provider"]]} for row in rows
                         if row["provider"] in names)  # fmt: skip


def spans_of_uses(rows: Iterable[Mapping[str, Any]]) -> list[Span]:
    """The spans of a history: ``card``, ``consumer``, ``at``, and whether it came or went."""
    open_since: dict[tuple[str, str], float] = {}
    spans = []
    for row in rows:
        key = (row["card"], row["consumer"])
        if row["came"]:
            open_since[key] = row["at"]
        else:
            spans.append(Span(*key, begin=open_since.pop(key, 0.0), end=row["at"]))
    return spans + [Span(*key, begin=since) for key, since in open_since.items()]


def spans_of_programs(journal: Iterable[Mapping[str, Any]]) -> list[Span]:
    """When each card was being programmed; what never ended is being programmed still."""
    open_calls: dict[str, Mapping[str, Any]] = {}
    spans = []
    for entry in journal:
        if entry["event"] == "begin":
            open_calls[entry["call"]] = entry
        else:
            begun = open_calls.pop(entry["call"])
            spans.append(Span(entry["card"], entry["function"], begun["at"], entry["at"]))
    return spans + [Span(e["card"], e["function"], e["at"]) for e in open_calls.values()]


def violations(used: list[Span], programs: list[Span]) -> list[str]:
    """Every program of a card in use, every two uses of a card at once, every two programs."""
    found = [
        f"{program.card} was programmed with {program.who} at {program.begin:.3f} while "
        f"{use.who} had it"
        for program in programs
        for use in used
        if program.meets(use)
    ]
    for kind, spans in (("used", used), ("programmed", programs)):
        by_card: dict[str, list[Span]] = defaultdict(list)
        for span in spans:
            by_card[span.card].append(span)
        found += [
            f"{card} was {kind} twice at once, for {one.who} and {other.who}"
            for card, those in by_card.items()
            for i, one in enumerate(those)
            for other in those[i + 1 :]
            if one.meets(other)
        ]
    return found


def judge_cards(cloud: Cloud) -> list[str]:
    """What was ever done to cards that must not be."""
    return violations(uses(cloud), spans_of_programs(cloud.journal()))


def fences(cloud: Cloud) -> list[str]:
    """The cards that are closed in Placement."""
    return [row["name"] for row in cloud.rows("placement", _RESERVED)]


def judge_servers(cloud: Cloud, names: Iterable[str]) -> dict[str, str]:
    """The fate of each server's name: ``active``, ``failed`` or what is wrong with it.

    Active is who has exactly one server that lives, active, and never had a second one that was
    ever launched. Failed is who has exactly one that lives, in error, and never had one launched.
    """
    fates = {}
    for name in names:
        launched = cloud.rows(
            "nova_cell1",
            "select uuid, vm_state, deleted from instances"
            " where display_name = %s and launched_at is not null",
            name,
        )
        living = [
            row["vm_state"]
            for cell in ("nova_cell0", "nova_cell1")
            for row in cloud.rows(
                cell,
                "select vm_state from instances where display_name = %s and deleted = 0",
                name,
            )
        ]
        if len(launched) > 1:
            fates[name] = f"launched {len(launched)} times"
        elif launched and living == ["active"]:
            fates[name] = "active"
        elif not launched and living == ["error"]:
            fates[name] = "failed"
        else:
            fates[name] = f"{len(launched)} launched, living: {living}"
    return fates


def wrong_functions(
    cloud: Cloud, wanted: Mapping[str, str], loaded: Mapping[str, str]
) -> list[str]:
    """Servers whose card does not have their function. ``wanted``: function by server uuid."""
    names = {row["id"]: _key(row["name"]) for row in cloud.rows("placement", _CARDS)}
    rows = cloud.rows("placement", "select consumer_id, resource_provider_id from allocations")
    return [
        f"{row['consumer_id']} wants {wanted[row['consumer_id']]}, its card has {loaded[card]}"
        for row in rows
        if row["consumer_id"] in wanted
        and (card := names.get(row["resource_provider_id"])) is not None
        and loaded[card] != wanted[row["consumer_id"]]
    ]


def _key(name: str) -> str:
    return name.replace("_simcard_", ".")
