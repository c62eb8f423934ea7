"""Settings: from ``changeover.toml``, secret files, and the environment (``CHANGEOVER_…``).

The later wins. Of secret files, :mod:`changeover.worker.secret_files` tells. The first is the one
named by ``$CHANGEOVER_CONFIG``, else ``./changeover.toml``, else
``/etc/changeover/changeover.toml``. Every setting has a sane default: with none at all the
embedded broker, database, Placement and simulated cloud are used.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args
from urllib.parse import quote, urlsplit

from pydantic import (
    BaseModel,
    Field,
    PositiveFloat,
    SecretStr,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, to_json
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from changeover.models.callback import DEFAULT, CallbackTarget
from changeover.models.errors import Invalid
from changeover.policies.hardware import RequestFilter
from changeover.policies.nearest import nearest
from changeover.worker.secret_files import ENV_PREFIX, SecretFiles, secret_files, secrets_dir

FILES = (Path("changeover.toml"), Path("/etc/changeover/changeover.toml"))

BROKERS = ("redis", "rediss", "redis+socket", "amqp", "amqps")
"""What Changeover is tested with; kombu's polling transports are far too slow."""

LEAST_SETTLE_SECONDS = 2.0
"""Below this a fence is no protection at all on a Placement with its defaults."""


TargetName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
"""A project's id, or ``default``."""

OTHER_VARIABLES = {f"{ENV_PREFIX}CONFIG", f"{ENV_PREFIX}SECRETS_DIR"}
"""Variables that are no settings but say where these are."""

Password = Annotated[SecretStr, Field(min_length=1)]


def default_state_dir() -> Path:
    """Where the embedded parts keep their files."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "changeover"


def config_file() -> Path | None:
    """The configuration file in force, if there is one."""
    named = os.environ.get("CHANGEOVER_CONFIG")
    if named:
        return Path(named)
    return next((path for path in FILES if path.is_file()), None)


class Settings(BaseSettings):
    """All settings. Times are in seconds, amounts in slots or devices."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        env_ignore_empty=True,  # what a template left empty is not set
        hide_input_in_errors=True,  # it may hold secrets
    )

    state_dir: Path = Field(
        default_factory=default_state_dir, description="files of the embedded parts"
    )
    database_url: SecretStr | None = Field(
        default=None, description="sqlite:///PATH or postgresql://…; default: SQLite in state_dir"
    )
    database_password: Password | None = Field(
        default=None, description="of the user in database_url"
    )
    broker_url: SecretStr | None = Field(
        default=None, description="redis://… or amqp://…; default: an embedded Valkey"
    )
    broker_password: Password | None = Field(default=None, description="of the user in broker_url")
    notification_url: SecretStr | None = Field(
        default=None,
        description="where Nova publishes (amqp://… of the cloud); default: broker_url",
    )
    notification_password: Password | None = Field(
        default=None, description="of the user in notification_url"
    )
    notification_exchange: str = Field(default="nova", description="Nova's control exchange")
    notification_exchange_durable: bool = Field(
        default=False, description="true where Nova runs with amqp_durable_queues"
    )
    notification_topics: tuple[str, ...] = Field(
        default=("versioned_notifications",), description="versioned topics; never legacy ones"
    )
    cloud: str | None = Field(default=None, description="name of the cloud in clouds.yaml")
    placement_endpoint: str | None = Field(
        default=None, description="a Placement with noauth2, for tests; default: embedded"
    )
    catalog: Path | None = Field(
        default=None, description="the catalog's YAML file; default: the embedded fleet's"
    )

    recreate: Literal["never", "opted-in", "all"] | None = Field(
        default=None,
        description="which failed servers are created again (new uuids); default: opted-in, all in "
        "the embedded cloud",
    )
    recreate_projects: frozenset[str] = Field(
        default=frozenset(), description="ids of projects that have opted in as a whole"
    )
    lost_networks: Literal["refuse", "auto", "none"] = Field(
        default="auto",
        description="networks of a successor whose owner does not state them in its metadata",
    )
    lost_key: Literal["refuse", "drop"] = Field(
        default="refuse",
        description="what to do where a key pair cannot be used for want of its owner's trust",
    )
    delete_failed: Literal["never", "after", "for-quota"] = Field(
        default="after",
        description="delete a failed server: never, once its successor is active, or also before "
        "where the quota has no room for both",
    )
    longest_request_seconds: float = Field(
        default=180.0,
        gt=0.0,
        description="after so long no create call that was not answered can be at work in Nova",
    )
    trust_roles: tuple[str, ...] = Field(
        default=("member",),
        min_length=1,
        description="roles that whoever asks for a server hands to the service user, by a trust",
    )
    settle_seconds: float = Field(
        default=10.0, ge=0.0, description="wait between fence and programming"
    )
    allow_short_settle: bool = Field(
        default=False, description="tests only: permit settle_seconds under 2"
    )
    lease_seconds: float = Field(
        default=15.0, ge=1.0, description="a worker silent for so long is taken over from"
    )
    request_timeout_seconds: float = Field(
        default=10.0,
        gt=0.0,
        description="longest silence of a remote service; an answer that keeps coming may take six "
        "times as long",
    )
    patience_seconds: float = Field(
        default=3600.0, gt=0.0, description="how long a failed boot is tried to be rescued"
    )
    max_attempts: int = Field(default=5, ge=1, description="creates for one failed boot")
    hold_seconds: float = Field(
        default=120.0, gt=0.0, description="how long slots are held for a boot"
    )
    keep_seconds: float = Field(
        default=600.0,
        gt=0.0,
        description="how long a device is not reprogrammed once its slots were left to an owner",
    )
    blazar: bool = Field(
        default=False, description="make devices ready for the leases of the cloud's Blazar"
    )
    reservation_seconds: float = Field(
        default=60.0, gt=0.0, description="between two looks at the leases"
    )
    reservation_margin_seconds: float = Field(
        default=300.0, ge=0.0, description="devices are ready so long before a lease starts"
    )
    retry_seconds: float = Field(
        default=60.0, gt=0.0, description="a waiting boot is judged again at least so often"
    )
    sweep_seconds: float = Field(default=5.0, gt=0.0, description="between two sweeps")
    look_seconds: float = Field(
        default=60.0,
        gt=0.0,
        description="between two looks for failed servers that no notification told of",
    )
    balance_seconds: float = Field(
        default=30.0, gt=0.0, description="between two looks at the pools' floors and forecasts"
    )
    forecast: bool = Field(
        default=True, description="program idle devices for what will likely be asked for"
    )
    forecast_after_seconds: float = Field(
        default=86_400.0,
        ge=0.0,
        description="demand seen for less is not acted on, unless the catalog expects some",
    )
    forecast_dwell_seconds: float = Field(
        default=600.0,
        ge=0.0,
        description="for so long after a program only boots and tasks may take a device again",
    )
    max_forecasts_per_hour: int = Field(
        default=20, ge=0, description="programs for forecasts alone, started"
    )
    max_thrash: float = Field(
        default=0.5,
        ge=0.0,
        le=1.0,
        description="share of a day's programs for forecasts that may be undone unused; then none",
    )
    demand_days: float = Field(
        default=60.0, gt=0.0, description="how long servers that ended are remembered"
    )
    refresh_seconds: float = Field(
        default=60.0, gt=0.0, description="between two looks for devices that came, went or changed"
    )
    full_refresh_seconds: float = Field(
        default=3600.0, gt=0.0, description="between two readings of all devices, changed or not"
    )
    enable_isolated_aggregate_filtering: bool = Field(
        default=False,
        description="aggregates with metadata trait:NAME = required take only servers that ask "
        "for that trait",
    )
    limit_tenants_to_placement_aggregate: bool = Field(
        default=False,
        description="projects that filter_tenant_id of aggregates names are kept to these",
    )
    placement_aggregate_required_for_tenants: bool = Field(
        default=False, description="with the one above, other projects find no host"
    )
    query_placement_for_image_type_support: bool = Field(
        default=False, description="hosts must support the image's disk format"
    )
    image_metadata_prefilter: bool = Field(
        default=False,
        description="hosts must have the traits that hw_ properties of the image mean",
    )
    dwell_seconds: float = Field(
        default=0.0, ge=0.0, description="a device keeps a new function at least so long"
    )
    max_changeovers: int | None = Field(default=None, ge=0, description="under way at once")
    max_changeovers_per_host: int | None = Field(
        default=None, ge=0, description="under way at once on one host"
    )
    max_changeovers_per_function: int | None = Field(
        default=None, ge=0, description="under way at once to one function"
    )
    max_changeovers_per_hour: int | None = Field(default=None, ge=0, description="started")
    program_tries: int = Field(
        default=2, ge=1, description="calls to program one device before it is quarantined"
    )
    function_failures: int = Field(
        default=3, ge=1, description="devices on which an artifact fails before it is stopped"
    )
    ageing_seconds: float = Field(
        default=300.0, gt=0.0, description="a boot that waited so long counts double"
    )
    project_shares: dict[str, PositiveFloat] = Field(
        default_factory=dict, description="weights of projects; 1.0 where nothing is said"
    )
    concurrent_reads: int = Field(
        default=8, ge=1, le=64, description="requests to Placement at once, a process"
    )
    seed: int = Field(default=0, description="decides between equals")

    worker_concurrency: int = Field(default=4, ge=1, description="processes of `changeover up`")
    host: str | None = Field(
        default=None, description="this compute host: its own queue is served here too"
    )
    callbacks: dict[TargetName, CallbackTarget] = Field(
        default_factory=dict,
        description="who is told of the ends of boots, by project; default: all other projects",
    )
    callback_tries: int = Field(
        default=12, ge=1, description="sendings of one callback before it is given up"
    )

    log_format: Literal["json", "console"] = Field(default="json", description="form of log lines")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info")

    @model_validator(mode="after")
    def _settle_is_long_enough(self) -> Settings:
        if self.settle_seconds < LEAST_SETTLE_SECONDS and not self.allow_short_settle:
            msg = (
                f"settle_seconds must be at least {LEAST_SETTLE_SECONDS:g}: Placement commits "
                "allocations that it admitted before the fence"
            )
            raise ValueError(msg)
        return self

    @field_validator("broker_url", "notification_url")
    @classmethod
    def _known_broker(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            scheme, there, _ = url.get_secret_value().partition("://")
            if not there or scheme not in BROKERS:
                # Without the URL: it may hold a password.
                msg = f"no broker of a known kind: begin the URL with {', '.join(BROKERS)}"
                raise ValueError(msg)
            if not all(map(_has_usable_port, url.get_secret_value().split(";"))):
                raise ValueError("the port must be a number from 0 to 65535")
        return url

    @field_validator("database_password", "broker_password", "notification_password")
    @classmethod
    def _has_its_place(cls, password: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        name = f"{info.field_name}".replace("password", "url")
        if password is None or name not in info.data:  # what is wrong with the URL is said there
            return password
        url = info.data[name]
        if url is None:
            raise ValueError(f"there is no {name} that it could belong to")
        text = url.get_secret_value()
        if _has_password(text):
            raise ValueError(f"{name} has a password of its own: remove one of them")
        if not all(_parted(one)[1] for one in text.split(";")):
            raise ValueError(f"{name} names no server that it could be for")
        return password

    @field_validator("placement_endpoint")
    @classmethod
    def _is_http(cls, url: str | None) -> str | None:
        if url is not None and not re.fullmatch(r"https?://[^\s/@?#]+(/[^\s?#]*)?", url):
            raise ValueError("must be http://HOST:PORT, or https://")
        return url

    @field_validator("notification_topics")
    @classmethod
    def _versioned_only(cls, topics: tuple[str, ...]) -> tuple[str, ...]:
        # A topic is bound with everything below it; a wildcard takes in the legacy one.
        words = [topic.split(".") for topic in topics]
        if not words or any(w[0] == "notifications" or {"", "*", "#"} & set(w) for w in words):
            msg = (
                "name versioned topics only: legacy notifications carry their tenants' tokens "
                "and must not be consumed"
            )
            raise ValueError(msg)
        return topics

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the library's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the library's signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Explicit values, then the environment, then secret files, then the file."""
        sources = [init_settings, env_settings]
        if (directory := secrets_dir()) is not None:
            sources.append(SecretFiles(settings_cls, directory))
        if (path := config_file()) is not None:
            sources.append(TomlConfigSettingsSource(settings_cls, path))
        return tuple(sources)

    @property
    def database(self) -> str:
        """The database's URL, with its password."""
        if self.database_url is not None:
            return _complete(self.database_url, self.database_password)
        return f"sqlite:///{self.state_dir / 'changeover.sqlite'}"

    @property
    def broker(self) -> str | None:
        """The broker's URL, with its password; ``None``: the embedded one."""
        if self.broker_url is None:
            return None
        return _complete(self.broker_url, self.broker_password)

    @property
    def notifications(self) -> str | None:
        """The URL of Nova's broker, with its password; ``None``: :attr:`broker`."""
        if self.notification_url is None:
            return None
        return _complete(self.notification_url, self.notification_password)

    @property
    def secrets(self) -> frozenset[str]:
        """The settings that hold a secret: passwords, URLs with one, keys of callbacks."""
        given = {
            name
            for name, value in self
            if isinstance(value, SecretStr)
            and (name.endswith("_password") or _has_password(value.get_secret_value()))
        }
        keys = any(target.secret is not None for target in self.callbacks.values())
        return frozenset(given | ({"callbacks"} if keys else set()))

    @property
    def request_filters(self) -> frozenset[RequestFilter]:
        """Those of Nova's optional request filters that see the flavor and the image only."""
        names: tuple[RequestFilter, ...] = get_args(RequestFilter)
        return frozenset(name for name in names if getattr(self, name))

    def callback_target(self, project: str) -> str | None:
        """The name of the target that is told of the project's boots, if any."""
        return next((name for name in (project, DEFAULT) if name in self.callbacks), None)

    @property
    def recreated(self) -> Literal["never", "opted-in", "all"]:
        """Which failed servers are created again; for the others only capacity is made."""
        if self.recreate is not None:
            return self.recreate
        return "all" if self.embedded_cloud else "opted-in"

    @property
    def embedded_cloud(self) -> bool:
        """Whether the simulated cloud stands in for a real one."""
        return self.cloud is None


def _parted(url: str) -> tuple[str, str, str]:
    """Scheme, ``USER:PASSWORD@HOST:PORT``, and the rest."""
    scheme, _, rest = url.partition("://")
    end = next((at for at, char in enumerate(rest) if char in "/?"), len(rest))
    return scheme, rest[:end], rest[end:]


def _has_usable_port(url: str) -> bool:
    try:
        _ = urlsplit(url).port
    except ValueError:
        return False
    return True


def _has_password(url: str) -> bool:
    return any(":" in _parted(one)[1].rpartition("@")[0] for one in url.split(";"))


def _complete(url: SecretStr, password: SecretStr | None) -> str:
    """The URL with the password put in; of several (``…;…``) into each."""
    if password is None:
        return url.get_secret_value()
    whole = []
    for one in url.get_secret_value().split(";"):
        scheme, authority, rest = _parted(one)
        user, _, host = authority.rpartition("@")
        whole.append(f"{scheme}://{user}:{quote(password.get_secret_value(), '')}@{host}{rest}")
    return ";".join(whole)


def _revealed(value: object) -> object:
    """The value with the secrets inside it in the clear: for a child's environment alone."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, BaseModel):
        return {name: _revealed(inner) for name, inner in dict(value).items()}
    if isinstance(value, dict):
        return {key: _revealed(inner) for key, inner in value.items()}
    return value


def load_settings(**explicit: object) -> Settings:
    """The settings in force. Raises :class:`Invalid` that names file, field and what is wrong."""
    path = config_file()
    if path is not None and not path.is_file():
        raise Invalid(f"{path}: no such configuration file (named by CHANGEOVER_CONFIG)")
    try:
        return Settings(**explicit)  # type: ignore[arg-type]  # pydantic checks each value
    except ValidationError as exc:
        lines = [
            f"{_source(e['loc'], explicit, path)}: "
            f"{'.'.join(map(str, e['loc'])) or 'settings'}: {_said(e)}"
            for e in exc.errors(include_input=False, include_url=False)
        ]
        raise Invalid("; ".join(lines)) from exc
    except SettingsError as exc:
        if isinstance(exc.__cause__, Invalid):
            raise exc.__cause__ from exc
        in_file = f'"{SecretFiles.__name__}"' in str(exc)
        raise Invalid(f"{secrets_dir() if in_file else 'environment'}: {exc}") from exc
    except (ValueError, OSError) as exc:
        raise Invalid(f"{path}: {exc}") from exc


def _said(error: ErrorDetails) -> str:
    """What is wrong with a value, as one says it."""
    if error["type"] == "extra_forbidden":
        meant = nearest(str(error["loc"][-1]), Settings.model_fields, most=1)
        return f"there is no such setting{f' (nearest: {meant[0]})' if meant else ''}"
    if error["type"] == "path_type":
        return "must be a path"
    if error["type"] in {"model_type", "dict_type"}:
        return "must be a table"
    return error["msg"].removeprefix("Value error, ")


def source_of(name: str) -> str:
    """Where the setting's value comes from: ``environment``, a file, or ``default``."""
    if in_environment(name):
        return "environment"
    if name in (files := secret_files()):
        return str(files[name])
    path = config_file()
    return str(path) if path is not None and name in keys_of(path) else "default"


def keys_of(file: Path) -> frozenset[str]:
    """The settings that the configuration file gives."""
    return frozenset(tomllib.loads(file.read_text(encoding="utf-8")))


def unknown() -> dict[str, str]:
    """What looks like a setting but is none: variables and secret files, with the nearest's name.

    They are no errors: Kubernetes makes variables of this form out of the names of services.
    """
    names = {key.upper(): key.upper() for key in os.environ}
    names |= {f"{ENV_PREFIX}{name.upper()}": str(path) for name, path in secret_files().items()}
    known = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields} | OTHER_VARIABLES
    return {
        shown: " or ".join(nearest(name, known, most=1))
        for name, shown in sorted(names.items())
        if name.startswith(ENV_PREFIX) and name not in known
    }


def _source(loc: tuple[int | str, ...], explicit: Mapping[str, object], path: Path | None) -> str:
    """Where a field's value came from, in the order in which sources win."""
    name = str(loc[0]) if loc else ""
    if name in explicit:
        return "option"
    if in_environment(name):
        return "environment"
    return str(secret_files().get(name) or path or "environment")


def in_environment(name: str) -> bool:
    """Whether an environment variable gives the setting; an empty one counts as not set."""
    wanted = f"{ENV_PREFIX}{name}".upper()
    return any(key.upper() == wanted and value for key, value in os.environ.items())


def as_environment(settings: Settings) -> dict[str, str]:
    """The settings as environment variables, for the processes of one deployment.

    Without those in secret files, which these processes read themselves.
    """
    env = {}
    left = {name for name in secret_files() if not in_environment(name)}
    for name in Settings.model_fields:
        if name in left:
            continue
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        if value is not None:
            text = value if isinstance(value, (str, Path)) else to_json(_revealed(value)).decode()
            env[f"{ENV_PREFIX}{name.upper()}"] = str(text)
    return env
