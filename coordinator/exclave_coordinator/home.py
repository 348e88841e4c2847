"""The coordinator's home: its files, how a new one is made, operators' profiles made at it."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from exclave_coordinator import config
from exclave_coordinator.audit.oplog import OK, Act, OperatorLog
from exclave_coordinator.config import Settings
from exclave_coordinator.errors import SetupError
from exclave_coordinator.fleet.certificates import (
    Authority,
    load_authority,
    new_request,
    parse_request,
    private_pem,
    to_pem,
)
from exclave_coordinator.fleet.enroll import name as checked_name
from exclave_coordinator.ports import Clock, Issued, Rng, Tx
from exclave_coordinator.storage import files
from exclave_protocol.checkpoint import operator_origin
from exclave_protocol.identity import SpiffeId
from exclave_protocol.note import SigningKey
from exclave_service.owner import become_owner

log = logging.getLogger(__name__)

DEFAULT_HOME = "/var/lib/exclave-coordinator"
FIRST_OPERATOR = "admin"
FIRST_OPERATOR_SECONDS = 365 * 86_400
ONLINE_KEYS = ("director", "witness", "operators")


@dataclass(frozen=True, slots=True)
class Home:
    """Paths of one coordinator."""

    path: Path

    @property
    def settings_file(self) -> Path:
        """coordinator.toml"""
        return self.path / "coordinator.toml"

    @property
    def database(self) -> Path:
        """coordinator.db"""
        return self.path / "coordinator.db"

    @property
    def artifacts(self) -> Path:
        """Uploaded targets."""
        return self.path / "artifacts"

    @property
    def keys(self) -> Path:
        """Online keys."""
        return self.path / "keys"

    @property
    def ca_key(self) -> Path:
        """The authority's private key."""
        return self.path / "ca" / "ca.key"

    @property
    def ca_certificate(self) -> Path:
        """The authority's certificate, PEM."""
        return self.path / "ca" / "ca.pem"

    @property
    def operators(self) -> Path:
        """Profiles of operators on this machine."""
        return self.path / "operators"

    @property
    def run(self) -> Path:
        """Files of the running process: lock, endpoints.json, spool."""
        return self.path / "run"

    @property
    def restored_mark(self) -> Path:
        """restored.json: there from a restore until the first `serve`."""
        return self.path / "restored.json"

    def key(self, name: str) -> Path:
        """One of ONLINE_KEYS."""
        return self.keys / f"{name}.key"

    def authority(self, settings: Settings, clock: Clock, rng: Rng) -> Authority:
        """The CA from its files. Raises: SetupError."""
        key = files.read_private(self.ca_key)
        try:
            certificate = self.ca_certificate.read_bytes()
            return load_authority(key, certificate, settings.trust_domain, clock, rng)
        except FileNotFoundError as error:
            raise SetupError("ca/ca.pem is missing: restore it from a backup") from error
        except ValueError as error:
            raise SetupError(f"ca: {error}: restore the folder from a backup") from error


@contextmanager
def hold(home: Home) -> Iterator[None]:
    """Have a home for oneself: two writers would each believe their memory.

    Raises: SetupError (another coordinator serves it; it cannot be written).
    """
    try:
        home.run.mkdir(mode=files.PRIVATE_FOLDER, exist_ok=True)
        handle = os.open(home.run / "lock", os.O_RDWR | os.O_CREAT, files.PRIVATE)
    except OSError as error:
        raise SetupError(
            f"cannot write in {home.run} ({error.strerror}): run as the user that owns the home"
        ) from error
    try:
        _lock(handle, home)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, home: Home) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise SetupError(
            f"another coordinator serves {home.path}: stop it first", code="running"
        ) from error


@dataclass(frozen=True, slots=True)
class Operator:
    """For whom a profile is made."""

    name: str
    role: str
    seconds: int
    """How long the certificate holds; 0: as the settings say."""


@contextmanager
def building(path: Path) -> Iterator[Home]:
    """A home that is filled beside `path` and becomes it when the block ends well.

    Raises: SetupError (as `filling`).
    """
    advice = "choose another --home, or run `exclave-coordinator doctor` on this one"
    with filling(path, advice, code="home_exists") as beside:
        yield Home(beside)


@contextmanager
def filling(path: Path, advice: str, *, code: str = "setup") -> Iterator[Path]:
    """A private folder beside `path`, which becomes it when the block ends well.

    Whole, or not at all: the rename is atomic, and `path` must be absent or empty.
    Raises: SetupError (there is something already; the parent is missing or not writable).
    """
    path = path.absolute()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise SetupError(
            f"{path} exists and is not empty: nothing was changed; {advice}", code=code
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise SetupError(
            f"cannot write beside {path} ({error.strerror}): choose another place or run as a "
            "user who may"
        ) from error
    try:
        yield beside
        beside.rename(path)
        files.sync_folder(path.parent)
    except OSError as error:
        raise SetupError(f"cannot make {path} ({error.strerror}): nothing was changed") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def create(path: Path, settings: Settings, clock: Clock, rng: Rng) -> Home:
    """Make a new home: whole, or not at all. Raises: SetupError."""
    with building(path) as home:
        _fill(home, settings, clock, rng)
    return Home(path.absolute())


def _fill(home: Home, settings: Settings, clock: Clock, rng: Rng) -> None:
    # Here, not above: SQLAlchemy takes long to import and the commands' help needs none of it.
    from exclave_coordinator.storage import database

    for folder in (home.ca_key.parent, home.keys, home.artifacts, home.operators, home.run):
        folder.mkdir(mode=files.PRIVATE_FOLDER, parents=True)
    authority = Authority.create(settings.trust_domain, clock, rng)
    files.write(home.ca_key, authority.key_pem)
    files.write(home.ca_certificate, authority.pem)
    for name in ONLINE_KEYS:
        key = Ed25519PrivateKey.from_private_bytes(rng.token(32))
        files.write(home.key(name), files.ed25519_pem(key))
    files.write(home.settings_file, config.render(settings).encode())
    database.create(home.database)
    _first_operator(home, settings, authority, clock.now())


def _first_operator(home: Home, settings: Settings, authority: Authority, now: int) -> None:
    from exclave_coordinator.storage import database

    folder = home.operators / FIRST_OPERATOR
    folder.mkdir(mode=files.PRIVATE_FOLDER)
    first = Operator(FIRST_OPERATOR, "admin", FIRST_OPERATOR_SECONDS)
    issued = _fill_profile(folder, home, settings, authority, first)

    def job(tx: Tx) -> None:
        tx.operators.insert_certificate(
            first.name, first.role, issued.serial, issued.not_after, now
        )

    database.once(home.database, job, writing=True)


def issue_operator(
    home: Home, folder: Path, operator: Operator, *, version: str, clock: Clock, rng: Rng
) -> int:
    """Make the profile `folder`, absent or empty until now; returns its end (epoch seconds).

    For whoever may read the CA's key, when no administrator's certificate is left to ask with.
    A coordinator may serve meanwhile: what this writes, it reads from the database every time.
    MUST: the record is durable before the profile is there.
    MUST: root writes nothing below another's home, whose owner could lead it elsewhere by a link:
    for a `folder` there this process becomes that owner, for good.
    Raises: SetupError (`folder` holds something; keys; restored and not served yet), Invalid,
    StorageForeign, StorageError.
    """
    from exclave_coordinator.storage import database

    checked_name(operator.name, "operator")
    uid = os.getuid()  # on the record is who asked, not whom root becomes
    if _lies_in(folder, home.path):
        become_owner(home.path)
    settings = config.load(home.settings_file)
    if home.restored_mark.exists():
        raise SetupError(
            "this home was restored and not served since: start the coordinator first, as the "
            "restore must be on the operators' record before anything else"
        )
    authority = home.authority(settings, clock, rng)
    domain = settings.trust_domain
    key = SigningKey(operator_origin(domain), files.load_ed25519(home.key("operators")))
    log = OperatorLog(key, version, clock=clock)
    act = Act(
        str(SpiffeId.coordinator(domain)),
        "coordinator",
        "IssueOperatorLocally",
        f"operator/{operator.name}",
        {"role": operator.role, "uid": str(uid)},
    )
    with filling(folder, "choose another folder with -o") as beside:
        issued = _fill_profile(beside, home, settings, authority, operator)

        def job(tx: Tx) -> None:
            tx.operators.insert_certificate(
                operator.name, operator.role, issued.serial, issued.not_after, clock.now()
            )
            log.append(tx, act, OK)

        database.once(home.database, job, writing=True)
    return issued.not_after


def _fill_profile(
    folder: Path, home: Home, settings: Settings, authority: Authority, operator: Operator
) -> Issued:
    key = ec.generate_private_key(ec.SECP256R1())
    request = parse_request(new_request(key))
    ttl = operator.seconds or settings.operator_certificate_seconds
    issued = authority.issue_operator(request, operator.name, operator.role, ttl)
    files.write(folder / "key.pem", private_pem(key))
    files.write(folder / "cert.pem", to_pem(issued.chain))
    files.write(folder / "ca.pem", authority.pem)
    write_profile(
        folder,
        endpoint=_dialled(home, settings),
        name=operator.name,
        role=operator.role,
        trust_domain=settings.trust_domain,
    )
    return issued


def _dialled(home: Home, settings: Settings) -> str:
    """Where operators find the coordinator; a port 0 is known once it has served."""
    port = config.split_endpoint(settings.listen)[1]
    endpoints = home.run / "endpoints.json"
    if port == 0 and endpoints.exists():
        return str(json.loads(endpoints.read_bytes())["session"])
    return config.join_endpoint(settings.dial_host, port)


def _lies_in(folder: Path, home: Path) -> bool:
    """Whether a path leads into the home, by its words or by its links as they are now."""
    homes = {os.path.abspath(home), os.path.realpath(home)}
    places = {os.path.abspath(folder), os.path.realpath(folder)}
    return any(Path(place).is_relative_to(above) for place in places for above in homes)


def write_profile(folder: Path, **fields: str) -> None:
    """profile.json of an operator's folder."""
    files.write(folder / "profile.json", json.dumps(fields, indent=2).encode() + b"\n")


def write_endpoints(home: Home, endpoints: dict[str, str]) -> None:
    """run/endpoints.json: where the running coordinator really listens.

    Profiles on this machine follow, as a port 0 is known only now. One that cannot is left as it
    is: no operator's folder keeps agents from being served.
    """
    body = {**endpoints, "pid": os.getpid()}
    files.write(home.run / "endpoints.json", json.dumps(body, indent=2).encode() + b"\n")
    for profile in home.operators.glob("*/profile.json"):
        try:
            _follow(profile, endpoints["session"])
        except (OSError, TypeError, ValueError) as error:
            log.warning(
                "operators/%s/profile.json does not say where to dial now (%s): correct it, or "
                "remove the folder",
                profile.parent.name,
                error,
            )


def _follow(profile: Path, endpoint: str) -> None:
    fields = json.loads(profile.read_bytes())
    if not isinstance(fields, dict):
        raise TypeError("it holds no JSON object")
    if fields.get("endpoint") != endpoint:
        write_profile(profile.parent, **{**fields, "endpoint": endpoint})
