"""The services' configuration files, as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

REGION = "RegionOne"
HOST = "127.0.0.1"

Section = Mapping[str, object]


@dataclass(frozen=True)
class Place:
    """Where everything is: directory, environment, ports by service, broker and database.

    ``retries`` is Placement's ``allocation_conflict_retry_count``.
    """

    state: Path
    venv: Path
    ports: Mapping[str, int]
    broker: str
    database: str
    password: str
    retries: int
    report_seconds: float

    @property
    def identity(self) -> str:
        """Keystone's URL."""
        return self.url("keystone", "/v3")

    def url(self, service: str, path: str = "") -> str:
        """A service's URL."""
        return f"http://{HOST}:{self.ports[service]}{path}"

    def schema(self, name: str) -> str:
        """The database's URL of one schema."""
        return f"{self.database}/{name}"

    def etc(self, service: str) -> Path:
        """A service's directory of configuration files."""
        path = self.state / "etc" / service
        path.mkdir(parents=True, exist_ok=True)
        return path

    def auth(self, user: str) -> Section:
        """How a service says who it is."""
        return {
            "auth_url": self.identity,
            "auth_type": "password",
            "username": user,
            "password": self.password,
            "project_name": "service",
            "user_domain_name": "Default",
            "project_domain_name": "Default",
            "region_name": REGION,
        }

    def peer(self, user: str) -> Section:
        """How a service reaches another one."""
        return {**self.auth(user), "valid_interfaces": "public"}

    def tokens(self, user: str) -> Section:
        """How a service checks the tokens that it is shown."""
        return {
            **self.auth(user),
            "www_authenticate_uri": self.identity,
            "service_token_roles": "service",
            "service_token_roles_required": True,
        }


def text(sections: Mapping[str, Section]) -> str:
    """An INI file."""
    lines = []
    for name, section in sections.items():
        lines.append(f"[{name}]")
        lines += [f"{key} = {value}" for key, value in section.items()]
    return "\n".join(lines) + "\n"


def keystone(place: Place) -> dict[str, Section]:
    """Keystone, with its keys beside the file."""
    etc = place.etc("keystone")
    return {
        "database": {"connection": place.schema("keystone")},
        "token": {"provider": "fernet", "expiration": 14400},
        "fernet_tokens": {"key_repository": etc / "fernet"},
        "credential": {"key_repository": etc / "credential"},
    }


def placement(place: Place) -> dict[str, Section]:
    """Placement behind Keystone."""
    return {
        "api": {"auth_strategy": "keystone"},
        "placement": {"allocation_conflict_retry_count": place.retries},
        "placement_database": {"connection": place.schema("placement")},
        "keystone_authtoken": place.tokens("placement"),
    }


def glance(place: Place) -> dict[str, Section]:
    """Glance on files."""
    images = place.state / "images"
    return {
        "DEFAULT": {"enabled_backends": "fs:file"},
        "glance_store": {"default_backend": "fs"},
        "fs": {"filesystem_store_datadir": images},
        "os_glance_tasks_store": {"filesystem_store_datadir": place.state / "tasks"},
        "os_glance_staging_store": {"filesystem_store_datadir": place.state / "staging"},
        "database": {"connection": place.schema("glance")},
        "paste_deploy": {"flavor": "keystone"},
        "keystone_authtoken": place.tokens("glance"),
    }


def nova(
    place: Place,
    host: str,
    *,
    cell: str | None,
    with_api: bool = True,
    extra: Mapping[str, Section] | None = None,
) -> dict[str, Section]:
    """Nova: ``cell`` is the schema of its cell's database, ``None`` for a compute."""
    home = place.state / "nova" / host
    sections: dict[str, Section] = {
        "DEFAULT": {
            "my_ip": HOST,
            "host": host,
            "state_path": home,
            "instances_path": home / "instances",
            "transport_url": place.broker,
            "compute_driver": "fake.FakeDriverWithoutFakeNodes",  # its node keeps its uuid
            "reserved_host_memory_mb": 0,
            "cpu_allocation_ratio": 1.0,  # a host that is full can be had with one server
            "heal_instance_info_cache_interval": -1,
            "osapi_compute_workers": 1,
            "vif_plugging_is_fatal": False,
            "service_down_time": 30,
            "report_interval": 5,
        },
        "oslo_concurrency": {"lock_path": place.state / "locks"},
        "notifications": {
            "notification_format": "versioned",
            "notify_on_state_change": "vm_and_task_state",
        },
        "oslo_messaging_notifications": {"driver": "messagingv2"},
        "scheduler": {"workers": 1, "discover_hosts_in_cells_interval": 3},
        "conductor": {"workers": 1},
        "api": {"auth_strategy": "keystone"},
        **{name: place.peer("nova") for name in ("glance", "neutron", "placement", "cyborg")},
        "service_user": {"send_service_user_token": True, **place.auth("nova")},
        "vnc": {"enabled": False},
        "spice": {"enabled": False},
        "keystone_authtoken": place.tokens("nova"),
    }
    if with_api:
        sections["api_database"] = {"connection": place.schema("nova_api")}
    if cell is not None:
        sections["database"] = {"connection": place.schema(cell)}
    for name, section in (extra or {}).items():
        sections[name] = {**sections.get(name, {}), **section}
    return sections


def cyborg(place: Place, host: str) -> dict[str, Section]:
    """Cyborg; ``host`` is whose cards its agent looks after."""
    return {
        "DEFAULT": {
            "transport_url": place.broker,
            "host": host,
            "state_path": place.state / "cyborg",
            "periodic_interval": max(1, int(place.report_seconds)),
        },
        "api": {
            "api_workers": 1,
            "host_ip": HOST,
            "port": place.ports["cyborg-api"],
            "api_paste_config": place.etc("cyborg") / "api-paste.ini",
        },
        "database": {"connection": place.schema("cyborg")},
        "agent": {
            "enabled_drivers": "sim_cards",
            "resource_provider_name": host,
            "resource_provider_startup_retries": 6,
        },
        **{
            name: place.peer("cyborg")
            for name in ("service_catalog", "placement", "nova", "glance", "image")
        },
        "oslo_concurrency": {"lock_path": place.state / "locks"},
        "keystone_authtoken": place.tokens("cyborg"),
    }


def gunicorn(app: str, port: int, *, workers: int = 1, threads: int) -> str:
    """How a WSGI application is served.

    A file and no arguments: Keystone and Cyborg read those of the process that they are in.
    """
    return (
        f'wsgi_app = "{app}"\nbind = "{HOST}:{port}"\nworkers = {workers}\nthreads = {threads}\n'
        "timeout = 120\nkeepalive = 75\ncontrol_socket_disable = True\n"
    )


def clouds(place: Place, users: Mapping[str, str]) -> dict[str, object]:
    """A ``clouds.yaml`` (JSON is YAML): one cloud a user, by name, in the project given."""
    return {
        "clouds": {
            name: {
                "region_name": REGION,
                "auth": {
                    "auth_url": place.identity,
                    "username": name,
                    "password": place.password,
                    "project_name": project,
                    "user_domain_name": "Default",
                    "project_domain_name": "Default",
                },
            }
            for name, project in users.items()
        }
    }
