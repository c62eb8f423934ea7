"""The catalog: functions, device models, devices and pools, as an operator writes them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from changeover.models.planning import Mode

UUID_PATTERN = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
_UUID = re.compile(UUID_PATTERN)

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@+-]*$", max_length=128)]
HostName = Annotated[Name, Field(max_length=112)]  # a host's queue is named after it
TraitName = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]*$", max_length=255)]
ClassName = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]*$", max_length=255)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Uuid = Annotated[str, StringConstraints(pattern=UUID_PATTERN)]
Glob = Annotated[str, StringConstraints(min_length=1, max_length=255)]
Slots = Annotated[int, Field(ge=1, le=4096)]

Owner = Literal["changeover", "cyborg", "nova"]
PoolMode = Literal["observe", "approve", "act"]


class Strict(BaseModel):
    """Unknown fields are errors: a misspelt knob must not be ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Artifact(Strict):
    """What is loaded: a bitstream image with its sha256, or the name of a vGPU type."""

    image: Name | None = None
    sha256: Sha256 | None = None
    vgpu_type: Name | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.image is None) == (self.vgpu_type is None):
            msg = "name either an image (with its sha256) or a vgpu_type"
            raise ValueError(msg)
        if self.image is not None and self.sha256 is None:
            msg = "an image needs its sha256: it is checked before every use"
            raise ValueError(msg)
        return self


class Expected(Strict):
    """What a function's demand is believed to be before any was seen.

    ``arrivals_a_day`` is how many bursts of boots are expected in a day (a single boot is a burst
    of one), ``burst_slots`` how many slots one burst asks for. Seen demand soon outweighs it.
    """

    arrivals_a_day: float = Field(gt=0.0, le=1_000_000.0)
    burst_slots: int = Field(default=1, ge=1, le=32)


class Function(Strict):
    """What a device can be programmed to do.

    ``fits`` maps a device model to the slots it then yields, ``seconds`` is how long programming
    is expected to take. ``resource_class`` is what its slots are called in Placement; on a fully
    dynamic model the model's own class stays, whatever is loaded.
    """

    name: Name = ""
    traits: tuple[TraitName, ...] = Field(min_length=1)
    resource_class: ClassName
    artifact: Artifact
    fits: Mapping[Name, Slots] = Field(min_length=1)
    seconds: float = Field(default=60.0, ge=0.0, le=86_400.0)
    expected: Expected | None = None


class Model(Strict):
    """A kind of device. ``resets`` says what programming one takes down: itself or its card."""

    name: Name = ""
    mode: Mode = "single_program"
    programmer: Name
    resets: Literal["self", "card"] = "self"
    traits: tuple[TraitName, ...] = ()
    resource_class: ClassName | None = None
    slots: Slots = 1

    @model_validator(mode="after")
    def _class_by_mode(self) -> Self:
        if (self.mode == "fully_dynamic") != (self.resource_class is not None):
            msg = (
                "a fully_dynamic model has a resource_class of its own; "
                "a single_program model takes its function's"
            )
            raise ValueError(msg)
        return self


class Device(Strict):
    """One programmable resource provider. ``provider`` is its uuid in Placement.

    ``owner`` says who writes its inventory. ``card`` groups devices that share hardware.
    ``address`` is the driver's own (PCI address, deployable uuid). A ``pinned`` device is never
    programmed.
    """

    name: Name
    provider: Uuid
    model: Name
    host: HostName
    address: str = Field(default="", max_length=255)
    owner: Owner = "changeover"
    card: Name | None = None
    pinned: bool = False


class FoundDevice(Device):
    """A device that no entry describes: ``rule`` is the one of ``discover`` that found it."""

    rule: Name

    def as_json(self) -> dict[str, Any]:
        """The device as JSON-able values."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The device that :meth:`as_json` wrote."""
        return cls.model_validate(data)


def _one_group(text: str) -> str:
    try:
        groups = re.compile(text).groups
    except (re.error, OverflowError, RecursionError) as error:
        msg = f"is no regular expression: {error}"
        raise ValueError(msg) from None
    if groups != 1:
        msg = "the regular expression must have exactly one group, which is what is taken"
        raise ValueError(msg)
    return text


PartOfName = Annotated[str, StringConstraints(max_length=255), AfterValidator(_one_group)]


class DiscoveryRule(Strict):
    """Which resource providers are devices, and of what kind. All criteria that it names count.

    ``source``: ``cyborg`` takes only providers of Cyborg's deployables, whose uuid becomes the
    device's address. ``resource_classes`` and ``aggregates``: any of them; ``traits``: all of
    them; ``names`` and ``exclude``: shell patterns of the provider's name. Classes and functions'
    traits say what is found first: programming changes them, and the device stays.

    ``model``: what is found; without it, the one model whose traits the provider has. ``card`` and
    ``address``: regular expressions that match the provider's whole name and whose one group is
    what is taken; ``card: parent`` takes the parent provider's name, and without ``address`` it is
    the deployable's uuid, else the provider's name. ``owner`` is by default Cyborg for its
    deployables, else Changeover.
    """

    name: Name = ""
    source: Literal["placement", "cyborg"] = "placement"
    model: Name | None = None
    resource_classes: tuple[ClassName, ...] = Field(default=(), max_length=64)
    traits: tuple[TraitName, ...] = Field(default=(), max_length=64)
    aggregates: tuple[Uuid, ...] = Field(default=(), max_length=64)
    names: tuple[Glob, ...] = Field(default=(), max_length=256)
    exclude: tuple[Glob, ...] = Field(default=(), max_length=4096)
    owner: Owner | None = None
    card: Literal["parent"] | PartOfName | None = None
    address: PartOfName | None = None
    pinned: bool = False

    @model_validator(mode="after")
    def _narrow(self) -> Self:
        placement = self.source == "placement"
        if placement and not (
            self.resource_classes or self.traits or self.aggregates or self.names
        ):
            msg = "takes every provider: name resource_classes, traits, aggregates or names"
            raise ValueError(msg)
        return self

    @property
    def owned_by(self) -> Owner:
        """Who writes the inventory of what it finds."""
        return self.owner or ("cyborg" if self.source == "cyborg" else "changeover")


class Pool(Strict):
    """All devices that offer, or could offer, one function; numbers are slots.

    ``min_free`` free slots are kept by the balancer, ``max_devices`` caps how many devices may
    offer the function. ``mode``: observe only recommends, approve waits for a person, act acts.
    """

    min_free: int = Field(default=0, ge=0, le=100_000)
    max_devices: int | None = Field(default=None, ge=0)
    mode: PoolMode = "act"


class CommandProgrammer(Strict):
    """A vendor's tool, run on the device's own host: argv only, no shell.

    ``{address}``, ``{device}``, ``{function}``, ``{image}``, ``{sha256}`` and ``{vgpu_type}`` are
    replaced in each word. ``read`` must print the loaded function's name, or nothing for an
    empty device; without it the device cannot be read back.
    """

    kind: Literal["command"]
    program: tuple[str, ...] = Field(min_length=1)
    read: tuple[str, ...] | None = None
    timeout_seconds: float = Field(default=900.0, gt=0)
    lock_dir: str = "/run/changeover"


class SimulatedProgrammer(Strict):
    """The simulated cards of the embedded cloud."""

    kind: Literal["simulated"]


class CyborgProgrammer(Strict):
    """Programming through Cyborg's API; a device's ``address`` is the uuid of its deployable.

    ``drain_seconds``: so long after it was sent, an unanswered call cannot run any more. By
    default twice Cyborg's ``rpc_response_timeout`` of 60 s and four times the longest function's
    ``seconds``. ``report_seconds``: what a card holds is reported within that time (the agents'
    period is about a minute). ``answer_seconds``: how long to wait for an answer, longer than
    Cyborg's own timeout. ``probe``: ask the agent for an image that does not exist before each
    program, so that a dead agent is found before anything is sent.
    """

    kind: Literal["cyborg"]
    drain_seconds: float | None = Field(default=None, gt=0)
    report_seconds: float = Field(default=180.0, gt=0)
    answer_seconds: float = Field(default=120.0, gt=0)
    probe: bool = True
    largest_image_bytes: int = Field(default=2**30, ge=1)


Programmer = Annotated[
    CommandProgrammer | CyborgProgrammer | SimulatedProgrammer, Field(discriminator="kind")
]


class Catalog(Strict):
    """All of it, consistent: every name that is used is defined."""

    programmers: Mapping[Name, Programmer]
    models: Mapping[Name, Model]
    functions: Mapping[Name, Function]
    devices: tuple[Device, ...] = ()
    discover: Mapping[Name, DiscoveryRule] = Field(default_factory=dict)
    pools: Mapping[Name, Pool] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _names_from_keys(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        named = dict(data)
        for section in ("models", "functions", "discover"):
            entries = named.get(section)
            if isinstance(entries, dict):
                named[section] = {
                    key: {**entry, "name": key} if isinstance(entry, dict) else entry
                    for key, entry in entries.items()
                }
        return named

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = [
            f"models.{model.name}.programmer: no programmer {model.programmer}"
            for model in self.models.values()
            if model.programmer not in self.programmers
        ]
        for function in self.functions.values():
            problems += [
                f"functions.{function.name}.fits: no model {name}"
                for name in function.fits
                if name not in self.models
            ]
        problems += [
            f"pools.{name}: no function {name}" for name in self.pools if name not in self.functions
        ]
        problems += [
            f"discover.{rule.name}.model: no model {rule.model}"
            for rule in self.discover.values()
            if rule.model is not None and rule.model not in self.models
        ]
        problems += self._indistinguishable()
        problems += self._images_without_uuid()
        seen: dict[str, str] = {}
        for index, device in enumerate(self.devices):
            where = f"devices.{index}"
            if device.model not in self.models:
                problems.append(f"{where}.model: no model {device.model}")
            else:
                problems += [f"{where}.{problem}" for problem in self.problems_of(device)]
            for key in (device.name, device.provider):
                if key in seen:
                    problems.append(f"{where}: {key} is already {seen[key]}")
                seen[key] = where
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def problems_of(self, device: Device) -> list[str]:
        """Why the device cannot be looked after as the catalog says; each begins with a field.

        Its model is defined.
        """
        model = self.models[device.model]
        problems = []
        through_cyborg = isinstance(self.programmers.get(model.programmer), CyborgProgrammer)
        if through_cyborg and _UUID.fullmatch(device.address) is None:
            problems.append("address: must be the uuid of the device's deployable in Cyborg")
        if through_cyborg and device.owner != "cyborg":
            problems.append("owner: Cyborg writes the inventory of what it programs: owner: cyborg")
        if device.owner == "nova":
            problems.append(
                "owner: nova-compute writes this inventory anew, with nothing reserved, at each of "
                "its updates: no fence holds. Let Changeover publish the device on a provider of "
                "its own (owner: changeover), see docs/openstack.md"
            )
        if device.owner == "cyborg":
            if model.resets == "card":
                problems.append(
                    f"owner: model {model.name} resets its whole card: what Cyborg reports of the "
                    "other devices on it would not be waited for"
                )
            offers = {
                (f.resource_class, f.fits[model.name])
                for f in self.functions.values()
                if model.name in f.fits
            }
            if model.mode == "single_program" and len(offers) > 1:
                shown = ", ".join(f"{n} x {rc}" for rc, n in sorted(offers))
                problems.append(
                    f"owner: functions of model {model.name} yield {shown}: where class or count "
                    "change, Cyborg writes the inventory anew and lifts every fence"
                )
        return problems

    def _images_without_uuid(self) -> list[str]:
        """Cyborg takes images of Glance by uuid."""
        models = {
            model.name
            for model in self.models.values()
            if isinstance(self.programmers.get(model.programmer), CyborgProgrammer)
        }
        return [
            f"functions.{function.name}.artifact.image: must be the uuid of an image in Glance"
            for function in self.functions.values()
            if models.intersection(function.fits)
            and _UUID.fullmatch(function.artifact.image or "") is None
        ]

    def _indistinguishable(self) -> list[str]:
        """What a device offers in Placement must say which function it has."""
        problems = []
        looks: dict[tuple[str, str | None, frozenset[str]], str] = {}
        for function in self.functions.values():
            for model in (self.models[name] for name in function.fits if name in self.models):
                single = model.resource_class is None
                traits = frozenset(function.traits) | frozenset(model.traits)
                look = (model.name, function.resource_class if single else None, traits)
                other = looks.setdefault(look, function.name)
                if other != function.name:
                    problems.append(
                        f"functions.{function.name}: looks like {other} in Placement on model "
                        f"{model.name}: give one of them a further trait"
                    )
                elif not single and traits == frozenset(model.traits):
                    problems.append(
                        f"functions.{function.name}: its traits are those that every device of "
                        f"model {model.name} has: an empty one would look like it"
                    )
        return problems

    def with_found(self, found: Iterable[FoundDevice]) -> Catalog:
        """The catalog with the devices that its rules found, by name; entries of its own win.

        Left out is what it has no model or no rule for any more.
        """
        described = self.described
        taken = {key for device in described for key in (device.name, device.provider)}
        fresh = [
            device
            for device in found
            if device.rule in self.discover
            and device.model in self.models
            and taken.isdisjoint((device.name, device.provider))
        ]
        fresh.sort(key=lambda device: device.name)
        return self.model_copy(update={"devices": (*described, *fresh)})

    @property
    def described(self) -> tuple[Device, ...]:
        """The devices that have an entry of their own."""
        return tuple(d for d in self.devices if not isinstance(d, FoundDevice))

    def pool(self, function: str) -> Pool:
        """The pool of ``function``; one without an entry has the defaults."""
        return self.pools.get(function, Pool())

    def device(self, name_or_provider: str) -> Device | None:
        """The device of that name or provider uuid."""
        for device in self.devices:
            if name_or_provider in (device.name, device.provider):
                return device
        return None
