"""What stands before anything can run: who we are, where things are kept, what is on record."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from exclave_agent import __version__
from exclave_agent.audit import drafts
from exclave_agent.audit import epoch as epochs
from exclave_agent.audit.append import Log
from exclave_agent.audit.boot import Starting, record_boot
from exclave_agent.audit.checkpoint import Checkpointer
from exclave_agent.audit.epoch import Epoch, Frost
from exclave_agent.audit.erase import Eraser
from exclave_agent.audit.term import Terms
from exclave_agent.config import Settings
from exclave_agent.errors import LogFrozen, StorageError
from exclave_agent.identity.keys import seal_keys
from exclave_agent.identity.secrets import Secrets
from exclave_agent.identity.store import (
    Identity,
    IdentityStore,
    identity_folder,
    private_keys,
)
from exclave_agent.review.registry import Registry
from exclave_agent.storage.home import Storage
from exclave_agent.storage.keys import roles_of
from exclave_agent.system import SystemClock, SystemIds, SystemRng, TrustedTime
from exclave_protocol.checkpoint import log_origin
from exclave_service.sd import Manager

log = logging.getLogger(__name__)

UNPROVEN = LogFrozen(
    "the coordinator has not confirmed yet that this home's log is the one that goes on "
    "(boot_proof = required): try again when it can be reached"
)
RUNTIMES = ("llama", "onnx", "lora", "remote")


@dataclass(slots=True)
class Control:
    """What whoever runs the agent tells it, and is told."""

    manager: Manager
    read: Callable[[], Settings]
    """The settings as they are on disk now."""
    set_level: Callable[[str], None]
    """Takes over another log level."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    """With `stop`: running requests are cancelled, and recorded as that."""
    reload: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class Record:
    """The open log and what signs it."""

    log: Log
    terms: Terms
    epoch: Epoch

    @property
    def checkpointer(self) -> Checkpointer:
        """Signs in the term that runs; one must have begun."""
        return Checkpointer(self.log.store, self.terms)


@dataclass(slots=True)
class Basis:
    """What stands before anything can run: who we are, where things are kept, what time it is."""

    control: Control
    clock: SystemClock
    rng: SystemRng
    ids: SystemIds
    identities: IdentityStore
    storage: Storage
    record: Record
    time: TrustedTime
    boot_id: str


async def open_record(
    identity: Identity, storage: Storage, clock: SystemClock, rng: SystemRng
) -> Record:
    epoch = await epochs.load(storage.state)
    who = identity.spiffe
    origin = log_origin(who.trust_domain, who.tenant, who.name, epoch.number)
    terms = Terms(storage.state, identity.audit_key, origin, epoch.number, rng)
    # Verifies the tail of the log: an altered leaf stops the agent here, by its number.
    database = await asyncio.to_thread(storage.open_log, origin, terms.log_key, epoch=epoch.number)
    return Record(Log(database, clock, rng), terms, epoch)


async def freeze(record: Record, storage: Storage, found: Frost) -> None:
    """Nothing is decided from now on, restarts included."""
    record.log.frozen = found.error()
    log.error("%s", found.error().message)
    try:
        await epochs.freeze(storage.state, found)
    except StorageError as error:
        # It holds while this process runs; the next one finds the same again.
        log.error("that the log is frozen cannot be kept: %s", error.message)


def thaw(record: Log) -> None:
    """The coordinator has confirmed the log; what was proven against it stays proven."""
    if record.frozen is UNPROVEN:
        record.frozen = None


def eraser_of(record: Log, storage: Storage, clock: SystemClock, ids: SystemIds) -> Eraser:
    """Of an open home."""
    return Eraser(record, storage.subjects, storage.truncate, clock, ids)


async def registry_of(record: Record, storage: Storage, home: Path) -> Registry:
    """Of an open home, loaded. Raises: StorageFull, StorageError."""
    epoch = record.log.store.epoch
    registry = Registry(record.log, storage.state, epoch, partial(roles_of, home))
    await registry.load()
    return registry


async def lay_basis(settings: Settings, control: Control, stack: AsyncExitStack) -> Basis:
    """Open the home, verify the record, write this start into it."""
    clock, rng, ids = SystemClock(), SystemRng(), SystemIds()
    identities = IdentityStore(settings.home)
    storage = await stack.enter_async_context(await asyncio.to_thread(Storage, settings.home, rng))
    folder = identity_folder(settings.home)
    taken = await asyncio.to_thread(Secrets(settings.home).take_over)
    if taken:
        log.info("secrets of a former version are encrypted now: %d", len(taken))
    sealed = await asyncio.to_thread(seal_keys, folder, private_keys(folder))
    if sealed:
        log.info("sealed under the service manager's credential: %s", ", ".join(sealed))
    record = await open_record(identities.current, storage, clock, rng)
    trusted = TrustedTime(clock, storage.state)
    step_back = await trusted.load()
    await trusted.persist()
    boot_id = ids.new()
    starting = Starting(
        agent=str(identities.current.spiffe),
        vkey=record.terms.log_key.vkey,
        version=__version__,
        boot_id=boot_id,
        runtimes=RUNTIMES,
        certificate=await record.terms.begin(),
        epoch=record.epoch,
        heartbeat=settings.heartbeat,
    )
    await record_boot(record.log, starting, clock.now_ns())
    if (found := await epochs.frost(storage.state)) is not None:
        record.log.frozen = found.error()
        log.error("%s", found.error().message)
    elif settings.boot_proof == "required":
        record.log.frozen = UNPROVEN
    if step_back is not None:
        seconds = f"{step_back.seconds:.0f} seconds"
        log.warning("the clock stepped back %s: expiry is judged by the latest seen", seconds)
        await record.log.append(drafts.incident("clock_stepped_back", seconds))
    return Basis(control, clock, rng, ids, identities, storage, record, trusted, boot_id)
