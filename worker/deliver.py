"""Deliver callbacks: one target at a time, oldest first, at least once, until they are given up.

One process delivers to a target (a lease), for a bounded time: a receiver that is slow holds up
its own callbacks and one worker at most.
"""

from __future__ import annotations

import hashlib

import structlog

from changeover.models.callback import LEAST_SECRET, Callback, CallbackTarget
from changeover.models.errors import AskOperator, Retry
from changeover.policies.backoff import backoff, jitter_of
from changeover.policies.callback import CONTENT_TYPE, SIGNATURE, cloud_event, signature
from changeover.worker.ports.webhook import Webhook
from changeover.worker.world import World

log = structlog.get_logger(__name__)

BUDGET_SECONDS = 30.0
"""How long one task goes on sending; the rest is another task's."""

LEASE_SECONDS = 60.0
"""Longer than the budget and the longest exchange together."""

FIRST_RETRY = 2.0
MOST_RETRY = 600.0


def deliver(world: World, webhook: Webhook, target: str) -> int:
    """Send what is due to the target; returns how many were delivered."""
    with world.database.write() as tx:
        now = world.clock.now()
        if not tx.leases.acquire(_lease(target), world.owner, now, LEASE_SECONDS):
            return 0
        tx.callbacks.take_hint(target)
    delivered = 0
    try:
        while world.clock.now() < now + BUDGET_SECONDS:
            with world.database.read() as tx:
                callback = tx.callbacks.next_due(target, world.clock.now())
            if callback is None:
                break
            delivered += _send(world, webhook, callback)
    finally:
        with world.database.write() as tx:
            tx.leases.release(_lease(target), world.owner)
            due_at = tx.callbacks.due().get(target)
            if due_at is not None:
                tx.callbacks.hint(target, world.clock.now(), due_at)
    return delivered


def _lease(target: str) -> str:
    return f"deliver:{hashlib.sha256(target.encode()).hexdigest()[:32]}"


def _send(world: World, webhook: Webhook, callback: Callback) -> bool:
    """One sending, and what came of it."""
    with structlog.contextvars.bound_contextvars(callback=callback.id, target=callback.target):
        target = world.settings.callbacks.get(callback.target)
        if target is None:
            error = "no such target is configured any more: see `callbacks` of the settings"
            with world.database.write() as tx:
                tx.callbacks.bury(callback, error, world.clock.now())
            log.error("callback.dead", why=error)
            return False
        try:
            secret = _secret(target)
            body = cloud_event(callback, f"/changeover/{world.settings.cloud or 'embedded'}")
            headers = {
                "Content-Type": CONTENT_TYPE,
                "User-Agent": "changeover",
                SIGNATURE: signature(secret, target.key_id, int(world.clock.now()), body),
            }
            webhook.post(target.url, headers, body)
        except (Retry, AskOperator) as exc:
            _failed(world, callback, exc.message)
            return False
        with world.database.write() as tx:
            tx.callbacks.delivered(callback, world.clock.now())
        log.info("callback.delivered", kind=callback.kind, boot=callback.boot)
        return True


def _secret(target: CallbackTarget) -> bytes:
    """The target's key, without blanks around it. Raises :class:`AskOperator` for a bad file."""
    if target.secret is not None:
        return target.secret.get_secret_value().encode()
    try:
        text = target.secret_file.read_bytes().strip() if target.secret_file else b""
    except OSError as exc:
        raise AskOperator(f"secret_file {target.secret_file}: {exc.strerror}") from exc
    if len(text) < LEAST_SECRET:
        raise AskOperator(
            f"secret_file {target.secret_file}: has fewer than {LEAST_SECRET} characters"
        )
    return text


def _failed(world: World, callback: Callback, error: str) -> None:
    """Try again later and later, with jitter; given up after so many tries."""
    now = world.clock.now()
    tries = callback.tries + 1
    with world.database.write() as tx:
        if tries >= world.settings.callback_tries:
            log.error("callback.dead", why=error, tries=tries)
            tx.callbacks.bury(callback, error, now)
            return
        jitter = jitter_of(f"{callback.id}:{tries}")
        wait = backoff(tries, first=FIRST_RETRY, most=MOST_RETRY, jitter=jitter)
        log.warning("callback.failed", why=error, tries=tries, again_in=wait)
        tx.callbacks.failed(callback, error, now + wait)
