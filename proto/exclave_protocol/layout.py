"""Where things stand in an audit bundle, and what its manifest says: names, schemas, limits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from .canonical import CanonicalError, JsonValue, decode, encode
from .checkpoint import log_origin, operator_origin
from .chosen import EVERYTHING, Filter
from .errors import EvidenceError, LeafError
from .leaf import MAX_SEQ, format_time, parse_time

STATEMENT_SCHEMA = "exclave.bundle-statement/v1"
STATEMENT_TYPE = "application/vnd.exclave.bundle-statement+json"
"""DSSE payload type of `SIGNED`."""
LISTINGS_SCHEMA = "exclave.listings/v1"
BUNDLE_SCHEMA = "exclave.bundle/v1"
COMPLETENESS_SCHEMA = "exclave.completeness/v1"
MANIFEST = "manifest.json"
SUMS = "SHA256SUMS"
BY_HAND = "VERIFY.md"
COMPLETENESS = "completeness.json"
WITNESS_KEY = "keys/witness.vkey"
PAGE = "report.html"
"""May be there: what the records say, for people (`page`)."""
VERIFIER = "exclave-verify.pyz"
"""May be there: the verifier of the version that wrote the bundle (`standalone`)."""
INDEX = "index.csv"
"""May be there: a line for each record (`index`)."""
LISTINGS = "listings.json"
"""May be there: models, policies and events (`listings`)."""
SIGNED = "manifest.dsse.json"
"""Who stands for the bundle: a DSSE envelope by the key of the operators' log."""
MAY_BE = frozenset({VERIFIER, PAGE, INDEX, LISTINGS, SIGNED})
"""Files that a bundle can do without."""

MAX_JSON = 16 * 1024 * 1024
"""Bytes of manifest.json, completeness.json and SHA256SUMS."""
MAX_SMALL = 64 * 1024
"""Bytes of a checkpoint, a key, a registration, VERIFY.md."""
SEGMENT_RECORDS = 1024
"""Records of one file of records."""
SILENT_BEATS = 2
"""Signs of life that may be missing before silence counts."""
MAX_LISTED = 1000
"""Ranges or seqs that completeness.json lists one by one; beyond, only their count."""

_NAME = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NUMBER = r"(?:0|[1-9][0-9]{0,18})"
_PLACE = rf"(?:logs/(?P<agent>{_NAME})|operators)/e(?P<epoch>{_NUMBER})"
NAME = re.compile(_NAME)
KNOWN_FILE = re.compile(
    rf"manifest\.json|SHA256SUMS|VERIFY\.md|completeness\.json|keys/witness\.vkey"
    r"|exclave-verify\.pyz|report\.html|index\.csv|listings\.json|manifest\.dsse\.json"
    rf"|keys/(?:{_NAME}|_operators)\.e{_NUMBER}\.vkey"
    rf"|logs/{_NAME}/registration\.json"
    rf"|{_PLACE}/(?:checkpoint|cosigned\.proof|hashes|records/[0-9]{{12,19}}\.jsonl|seen/[0-9]{{4}}\.checkpoint)"
)
INTEGER = re.compile(_NUMBER)
"""A 64-bit integer's digits; the bound is checked by whoever reads it."""


def integer(value: JsonValue, name: str) -> int:
    """A 64-bit integer written as a decimal string. Raises: EvidenceError naming the field."""
    if type(value) is not str or INTEGER.fullmatch(value) is None or int(value) > MAX_SEQ:
        raise EvidenceError(f"{name}: not a decimal string within 0 and 2**63-1")
    return int(value)


def text(value: JsonValue, name: str) -> str:
    """A string. Raises: EvidenceError naming the field."""
    if type(value) is not str:
        raise EvidenceError(f"{name}: not a string")
    return value


def shown(value: str) -> str:
    """A hostile text made fit for a report: ASCII, short."""
    return ascii(value if len(value) <= 120 else value[:117] + "...")[1:-1]


def second(value: int) -> str:
    """POSIX seconds for people; a bundle, or a witness, may state any 63-bit number."""
    try:
        return format_time(value * 10**9)[:19] + "Z"
    except LeafError:
        return f"{value} s after the Unix epoch"


def fields(value: JsonValue, names: set[str], what: str) -> dict[str, JsonValue]:
    """An object with exactly these fields. Raises: EvidenceError."""
    if type(value) is not dict or value.keys() != names:
        raise EvidenceError(f"{what}: not an object with {', '.join(sorted(names))}")
    return value


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One log as the manifest describes it."""

    agent: str
    """Empty for the operators' log."""
    epoch: int
    origin: str
    vkey: str
    size: int
    """Leaves under the checkpoint; 0 when there is none."""
    uploaded: int
    """Leaves that the coordinator held when it wrote the bundle."""
    first: int
    end: int
    """Seqs [first, end) are in the bundle's time range."""

    @property
    def place(self) -> str:
        """The folder of the log's files."""
        return f"logs/{self.agent}/e{self.epoch}" if self.agent else f"operators/e{self.epoch}"

    @property
    def key_file(self) -> str:
        """The file of the log's verifier key."""
        return f"keys/{self.agent or '_operators'}.e{self.epoch}.vkey"

    @property
    def proof_file(self) -> str:
        """That the checkpoint's cosignature is on record in the witness's log."""
        return f"{self.place}/cosigned.proof"

    def to_json(self) -> dict[str, JsonValue]:
        """The manifest's object."""
        return {
            "kind": "agent" if self.agent else "operators",
            "agent": self.agent,
            "epoch": str(self.epoch),
            "origin": self.origin,
            "vkey": self.vkey,
            "path": self.place,
            "size": str(self.size),
            "uploaded": str(self.uploaded),
            "first": str(self.first),
            "end": str(self.end),
        }

    @classmethod
    def from_json(cls, value: JsonValue, domain: str, tenant: str) -> LogEntry:
        """Read and cross-check one entry. Raises: EvidenceError."""
        entry = fields(value, set(_SAMPLE.to_json()), "log")
        agent = text(entry["agent"], "agent")
        log = cls(
            agent,
            integer(entry["epoch"], "epoch"),
            text(entry["origin"], "origin"),
            text(entry["vkey"], "vkey"),
            integer(entry["size"], "size"),
            integer(entry["uploaded"], "uploaded"),
            integer(entry["first"], "first"),
            integer(entry["end"], "end"),
        )
        if agent and NAME.fullmatch(agent) is None:
            raise EvidenceError("agent is not a name")
        expected = (
            log_origin(domain, tenant, agent, log.epoch)
            if agent
            else operator_origin(domain, log.epoch)
        )
        if log.origin != expected:
            raise EvidenceError(
                f"manifest: origin of {log.place} does not fit its domain, tenant, agent, epoch"
            )
        if entry["path"] != log.place or entry["kind"] != log.to_json()["kind"]:
            raise EvidenceError(f"path or kind of {log.origin} do not fit its agent")
        if not log.first <= log.end <= max(log.size, log.uploaded):
            raise EvidenceError(f"first, end and size of {log.origin} do not fit")
        return log


_SAMPLE = LogEntry("", 0, "", "", 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class AgentEntry:
    """One agent that the coordinator has on file; its word, bound by no signature."""

    name: str
    last_seen: int
    """Seconds since the Unix epoch; 0: it has never been connected."""

    def to_json(self) -> dict[str, JsonValue]:
        """The manifest's object."""
        return {"agent": self.name, "last_seen": str(self.last_seen)}

    @classmethod
    def from_json(cls, value: JsonValue) -> AgentEntry:
        """Raises: EvidenceError."""
        entry = fields(value, {"agent", "last_seen"}, "agents")
        name = text(entry["agent"], "agent")
        if NAME.fullmatch(name) is None:
            raise EvidenceError("agent is not a name")
        return cls(name, integer(entry["last_seen"], "last_seen"))


_MANIFEST_FIELDS = {
    "schema",
    "tenant",
    "trust_domain",
    "created",
    "range",
    "filter",
    "witness_vkey",
    "agents",
    "logs",
}


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the bundle says of itself; everything in it is checked against the rest."""

    tenant: str
    trust_domain: str
    created_ns: int
    """When the coordinator wrote it, by its clock; no signature covers it."""
    time_from: int
    time_to: int
    """Seconds since the Unix epoch, from inclusive, to exclusive; 0: open."""
    witness_vkey: str
    agents: tuple[AgentEntry, ...]
    """Every agent on file, with or without a log, by name."""
    logs: tuple[LogEntry, ...]
    filter: Filter = EVERYTHING
    """Which decisions were asked for; of agents' logs the others are not here."""

    def partial(self, log: LogEntry) -> bool:
        """Whether records of a log's range were left out because they were not asked for."""
        return bool(self.filter) and bool(log.agent)

    def in_range(self, time_ns: int) -> bool:
        """Whether a leaf's own time lies in the bundle's range."""
        seconds = time_ns // 1_000_000_000
        return seconds >= self.time_from and (self.time_to == 0 or seconds < self.time_to)

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return encode(
            {
                "schema": BUNDLE_SCHEMA,
                "tenant": self.tenant,
                "trust_domain": self.trust_domain,
                "created": format_time(self.created_ns),
                "range": {"from": str(self.time_from), "to": str(self.time_to)},
                "filter": self.filter.to_json(),
                "witness_vkey": self.witness_vkey,
                "agents": [agent.to_json() for agent in self.agents],
                "logs": [log.to_json() for log in self.logs],
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Read a manifest. Raises: EvidenceError, whatever the bytes."""
        try:
            return cls._read(data)
        except (CanonicalError, LeafError, EvidenceError) as error:
            raise EvidenceError(f"{MANIFEST}: {error}") from None

    @classmethod
    def _read(cls, data: bytes) -> Manifest:
        value = fields(decode(data, limit=MAX_JSON), _MANIFEST_FIELDS, "manifest")
        created = parse_time(text(value["created"], "created"))
        if value["schema"] != BUNDLE_SCHEMA:
            raise EvidenceError(f"schema is not {BUNDLE_SCHEMA}; use a newer verifier?")
        span = fields(value["range"], {"from", "to"}, "range")
        domain, tenant = (
            text(value["trust_domain"], "trust_domain"),
            text(value["tenant"], "tenant"),
        )
        if NAME.fullmatch(tenant) is None:
            raise EvidenceError("tenant is not a name")
        logs, listed = value["logs"], value["agents"]
        if type(logs) is not list or type(listed) is not list:
            raise EvidenceError("logs or agents is not an array")
        agents = tuple(AgentEntry.from_json(item) for item in listed)
        if any(first.name >= after.name for first, after in pairwise(agents)):
            raise EvidenceError("agents is not in order, or one stands there twice")
        entries = tuple(LogEntry.from_json(log, domain, tenant) for log in logs)
        if len({entry.place for entry in entries}) != len(entries):
            raise EvidenceError("one log stands there twice")
        return cls(
            tenant,
            domain,
            created,
            integer(span["from"], "from"),
            integer(span["to"], "to"),
            text(value["witness_vkey"], "witness_vkey"),
            agents,
            entries,
            Filter.from_json(value["filter"]),
        )


def wanted(first: int, end: int, size: int, epoch: int = 1) -> list[range]:
    """The seqs whose records a bundle holds for the range [first, end), ascending.

    Besides the range: seq 0 (who writes, with which key), beyond the first epoch seq 1 (what it
    continues), and the neighbour on each side, whose times show that the range was not cut short.
    """
    opening = min(1 if epoch == 1 else 2, max(end, size))
    start, stop = max(first - 1, 0), max(end, min(end + 1, size))
    if start <= opening:
        return [range(max(stop, opening))]
    return [range(opening), range(start, stop)]


def statement(manifest: str, sums: str) -> bytes:
    """What whoever wrote the bundle signs: SHA-256 (hex) of manifest.json and SHA256SUMS, which
    names every other file."""
    return encode({"schema": STATEMENT_SCHEMA, "manifest": manifest, "sums": sums})


def registration(value: Mapping[str, JsonValue]) -> bytes:
    """registration.json: what the coordinator has on file of an agent."""
    return encode(dict(value))
