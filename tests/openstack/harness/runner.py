"""A small real OpenStack on loopback: everything under one process, which ends with its parent.

Real are Keystone, Placement, Glance, Nova (API, scheduler, conductor, computes whose hypervisor
is Nova's own fake one), Cyborg (API, conductor, an agent a host, with simulated cards that can be
programmed), RabbitMQ and MariaDB. Neutron is a stand-in. All listen on free ports.

Whoever holds ``cloud.json`` may stop a service by writing a signal's name into ``down/SERVICE``
and start it again by removing that file; ``pid/SERVICE`` is there while it runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import requests
import services
from harness import config, identity, judge, schemas
from harness.client import Cloud
from harness.config import HOST, Place
from harness.install import FOLDER, PLUGINS, TREE, environment

from changeover.worker import flock
from changeover.worker.embedded.child import Child, start_child

WSGI = {
    "keystone": ("keystone.wsgi.api:application", 1, 4),
    "placement": ("placement.wsgi.api:application", 2, 1),
    "glance": ("glance.wsgi.api:application", 1, 4),
    "nova-api": ("nova.wsgi.osapi_compute:application", 1, 8),
    "cyborg-api": ("cyborg.wsgi.api:application", 1, 4),
}
"""Application, processes and threads of each service that has an address."""

PORTS = (*WSGI, "neutron")

_LISTEN = range(20_000, 32_000)  # below those that the kernel gives to outgoing connections
_ANSWER_SECONDS = 180.0
_STOP_SECONDS = 15.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Options:
    """How large the cloud is: computes ``cmp1`` to ``cmpN``, cards by host.

    ``retries`` is Placement's ``allocation_conflict_retry_count`` (10 is its default, 1 closes
    the window for late allocations). Cyborg reports every ``report_seconds``; unless changed it
    would be 60.
    """

    computes: int = 3
    cards: Mapping[str, int] = field(default_factory=lambda: {"cmp1": 8, "cmp2": 8})
    retries: int = 10
    report_seconds: float = 8.0


@dataclass
class Service:
    """One process of the cloud, and how it is started."""

    argv: list[str | Path]
    env: dict[str, str]
    child: Child | None = None


class Runner:
    """Starts the cloud, obeys ``down/``, stops it. ``state`` is its directory."""

    def __init__(self, state: Path, options: Options) -> None:
        self.state = state
        self.options = options
        self.services: dict[str, Service] = {}
        self.began = time.monotonic()
        self.stopping = threading.Event()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Everything runs within."""
        for name in ("log", "pid", "down", "etc", "images", "tasks", "staging", "locks", "cards"):
            (self.state / name).mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._guarded())
            with ThreadPoolExecutor(3) as pool:
                venv = pool.submit(environment)
                log = self.state / "log"
                broker = services.rabbitmq(log / "rabbitmq.log")
                database = services.mariadb(log / "mariadb.log", connections=600)
                started = [pool.submit(stack.enter_context, each) for each in (broker, database)]
                urls = [each.result() for each in started]
                self.place = Place(
                    state=self.state,
                    venv=venv.result(),
                    ports=dict(zip(PORTS, _free_ports(len(PORTS)), strict=True)),
                    broker=urls[0].replace("amqp://", "rabbit://").removesuffix("/"),
                    database=urls[1].removesuffix("/test"),
                    password=secrets.token_urlsafe(12),
                    retries=self.options.retries,
                    report_seconds=self.options.report_seconds,
                )
            self.notification_url = urls[0]
            self.say("broker and database")
            stack.callback(self._stop_all)
            self._configure()
            schemas.make(self.place)
            self.say("schemas")
            self._start_all()
            self._announce()
            self.say("up")
            yield

    def say(self, what: str) -> None:
        """A line for whoever waits."""
        print(f"{time.monotonic() - self.began:6.1f} s  {what}", flush=True)  # noqa: T201 - a program's own output

    def watch(self) -> None:
        """Stop and start what ``down/`` says, until :attr:`stopping` is set."""
        while not self.stopping.wait(_POLL_SECONDS):
            for name, service in self.services.items():
                wanted_down = self.state / "down" / name
                if service.child is not None and service.child.poll() is not None:
                    self.say(f"{name} ended with status {service.child.poll()}")
                    self._gone(name)
                if service.child is not None and wanted_down.exists():
                    number = signal.Signals[wanted_down.read_text().strip() or "SIGTERM"]
                    service.child.stop(_STOP_SECONDS, number=number)
                    self._kill_group(service.child.pid)
                    self._gone(name)
                elif service.child is None and not wanted_down.exists():
                    self._start(name)

    # --- parts --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """See ``guard.py``: it waits until this process is gone, or is done."""
        argv = [sys.executable, FOLDER / "harness" / "guard.py", self.state]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, start_new_session=True):
            yield

    def _configure(self) -> None:
        place = self.place
        computes = [f"cmp{i + 1}" for i in range(self.options.computes)]
        write = {
            "keystone/keystone.conf": config.keystone(place),
            "placement/placement.conf": config.placement(place),
            "glance/glance-api.conf": config.glance(place),
            "nova/nova.conf": config.nova(place, "ctl", cell="nova_cell0"),
            "nova/scheduler.conf": config.nova(place, "ctl", cell="nova_cell0", extra=_SCHEDULER),
            "nova/cell1.conf": config.nova(place, "ctl", cell="nova_cell1"),
            **{
                f"nova/{host}.conf": config.nova(place, host, cell=None, with_api=False)
                for host in computes
            },
            "cyborg/cyborg.conf": config.cyborg(place, "ctl"),
            **{f"cyborg/{host}.conf": config.cyborg(place, host) for host in self.options.cards},
        }
        for name, sections in write.items():
            service, file = name.split("/")
            path = place.etc(service) / file
            path.touch(mode=0o600)
            path.write_text(config.text(sections))
        shared = place.venv / "etc"
        shutil.copy(shared / "glance" / "glance-api-paste.ini", place.etc("glance"))
        shutil.copy(shared / "nova" / "api-paste.ini", place.etc("nova"))
        shutil.copy(shared / "cyborg" / "api-paste.ini", place.etc("cyborg"))
        for host in ("ctl", *computes):
            (self.state / "nova" / host / "instances").mkdir(parents=True, exist_ok=True)
        # Cyborg's WSGI application looks for its file in the home directory only.
        home = self.state / "home"
        home.mkdir(exist_ok=True)
        link = home / ".cyborg"
        link.unlink(missing_ok=True)
        link.symlink_to(place.etc("cyborg"))

    def _start_all(self) -> None:
        place, etc = self.place, self.place.etc
        identity.bootstrap(place)
        self._wsgi(
            "keystone",
            OS_KEYSTONE_CONFIG_DIR=etc("keystone"),
            OS_KEYSTONE_CONFIG_FILES="keystone.conf",
        )
        self._wsgi("placement", OS_PLACEMENT_CONFIG_DIR=etc("placement"))
        self._run("neutron", [sys.executable, FOLDER / "harness" / "neutron.py",
                              place.ports["neutron"]])  # fmt: skip
        self._answers("keystone", "/v3")
        (self.state / "clouds.yaml").touch(mode=0o600)
        (self.state / "clouds.yaml").write_text(
            json.dumps(config.clouds(place, identity.USERS), indent=1)
        )
        identity.fill(place)
        self.say("users, projects and endpoints")
        self._wsgi("glance", OS_GLANCE_CONFIG_DIR=etc("glance"))
        self._wsgi(
            "nova-api",
            OS_NOVA_CONFIG_DIR=etc("nova"),
            OS_NOVA_DISABLE_EVENTLET_PATCHING="true",
        )
        self._wsgi("cyborg-api", HOME=self.state / "home")
        self._answers("placement")  # scheduler, conductor and computes end without it
        self._nova("nova-scheduler", "nova-scheduler", "scheduler.conf", PYTHONPATH=TREE / "src")
        self._nova("nova-conductor", "nova-conductor", "cell1.conf")
        self._answers("nova-api")
        for i in range(self.options.computes):
            self._nova(f"nova-compute-cmp{i + 1}", "nova-compute", f"cmp{i + 1}.conf")
        self._run("cyborg-conductor", [place.venv / "bin" / "cyborg-conductor",
                                       "--config-file", etc("cyborg") / "cyborg.conf"])  # fmt: skip
        self._answers("glance")
        self._answers("cyborg-api")
        identity.wait_for_computes(place, self.options.computes)
        identity.quotas(place)
        self.say("computes")
        for host, count in self.options.cards.items():
            self._agent(host, count)
        identity.wait_for_cards(place, sum(self.options.cards.values()))
        self.say("cards")
        identity.image(place)

    def _announce(self) -> None:
        facts = {
            "pid": os.getpid(),
            "clouds": str(self.state / "clouds.yaml"),
            "notification_url": self.notification_url,
            "database": self.place.database,
            "urls": {name: self.place.url(name) for name in self.place.ports},
            "computes": self.options.computes,
            "report_seconds": self.options.report_seconds,
        }
        judge.remember(Cloud(self.state, facts))
        draft = self.state / "cloud.draft"
        draft.touch(mode=0o600)
        draft.write_text(json.dumps(facts, indent=1))
        draft.replace(self.state / "cloud.json")

    def _wsgi(self, name: str, **env: object) -> None:
        app, workers, threads = WSGI[name]
        path = self.state / "etc" / f"{name}.gunicorn.py"
        path.write_text(
            config.gunicorn(app, self.place.ports[name], workers=workers, threads=threads)
        )
        self._run(name, [self.place.venv / "bin" / "gunicorn"], GUNICORN_CMD_ARGS=f"-c {path}",
                  **env)  # fmt: skip

    def _nova(self, name: str, program: str, file: str, **env: object) -> None:
        argv = [self.place.venv / "bin" / program, "--config-file", self.place.etc("nova") / file]
        self._run(name, argv, **env)

    def _agent(self, host: str, count: int) -> None:
        self._run(
            f"cyborg-agent-{host}",
            [
                self.place.venv / "bin" / "python", PLUGINS / "cyborg_agent.py",
                "--config-file", self.place.etc("cyborg") / f"{host}.conf",
            ],
            PYTHONPATH=PLUGINS,
            SIMCARDS_DIR=self.state / "cards",
            SIMCARDS_COUNT=count,
            SIMCARDS_REPORT_SECONDS=self.options.report_seconds,
        )  # fmt: skip

    def _run(self, name: str, argv: list[str | Path], **env: object) -> None:
        # Nothing of the test run's own environment that a service could take for its settings.
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("OS_", "PYTHON"))}
        self.services[name] = Service(
            [str(word) for word in argv],
            {**kept, "PYTHONUNBUFFERED": "1", **{key: str(value) for key, value in env.items()}},
        )
        self._start(name)

    def _start(self, name: str) -> None:
        service = self.services[name]
        service.child = start_child(
            service.argv,
            name=name,
            env=service.env,
            log_path=self.state / "log" / f"{name}.log",
            cwd=self.state,
            on_parent_death=signal.SIGTERM,
        )
        (self.state / "pid" / name).write_text(str(service.child.pid))

    def _answers(self, name: str, path: str = "/") -> None:
        child = self.services[name].child
        assert child is not None
        child.wait_until(lambda: _answers(self.place.url(name, path)), timeout=_ANSWER_SECONDS)

    def _gone(self, name: str) -> None:
        self.services[name].child = None
        (self.state / "pid" / name).unlink(missing_ok=True)

    def _stop_all(self) -> None:
        (self.state / "cloud.json").unlink(missing_ok=True)
        children = [s.child for s in self.services.values() if s.child is not None]
        for child in children:
            child.send(signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        for child in children:
            if child.wait(max(0.0, deadline - time.monotonic())) is None:
                child.kill()
            self._kill_group(child.pid)
        for path in (self.state / "pid").iterdir():
            path.unlink()

    @staticmethod
    def _kill_group(pid: int) -> None:
        """What a service forked is in its session's group, and goes with it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


_SCHEDULER = {
    "filter_scheduler": {
        "weight_classes": "nova.scheduler.weights.all_weighers,"
        "changeover.worker.nova_weigher.PreferredTraitsWeigher"
    },
    # These two mean nothing until an aggregate has the metadata that they are about.
    "scheduler": {
        "enable_isolated_aggregate_filtering": True,
        "limit_tenants_to_placement_aggregate": True,
    },
}


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=10).status_code < 500
    except requests.RequestException:
        return False


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, and that no outgoing connection will be given."""
    found: list[int] = []
    for port in random.sample(_LISTEN, len(_LISTEN)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            break
    return found


def run(state: Path, options: Options) -> None:
    """Run a cloud in ``state`` until SIGTERM or SIGINT."""
    runner = Runner(state, options)
    state.mkdir(parents=True, exist_ok=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _interrupt(runner))
    with flock.hold(state / "lock"):
        for path in state.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()
        try:
            with runner.running():
                runner.watch()
        except KeyboardInterrupt:
            runner.say("interrupted")


def _interrupt(runner: Runner) -> None:
    """End the watch, or, while everything is still starting, that."""
    runner.stopping.set()
    if not (runner.state / "cloud.json").exists():
        raise KeyboardInterrupt
