"""Section 5 of the page, steps 1 to 5: the files of a bundle, its manifest, keys and statement."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from stranger.notes import LOG, TERM, WITNESS, Vkey, parse_vkey
from stranger.wire import (
    Refused,
    canonical,
    decimal,
    items,
    loose,
    parse,
    record,
    text,
    time_ns,
    unb64,
)

AGENT = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
STATEMENT = "application/vnd.exclave.bundle-statement+json"
# Of this version, as tests/vectors/bundle.json has it.
GUIDE = "4c6b39e3090a7becc41a0cba555f33db9abd5d0c9e73315508f10cb18d959d18"
NEEDED = {"manifest.json", "SHA256SUMS", "VERIFY.md", "completeness.json", "keys/witness.vkey"}
OPTIONAL = {"report.html", "index.csv", "listings.json", "exclave-verify.pyz"}
RECORDS = re.compile(r"records/([0-9]{12})\.jsonl")
SEEN = re.compile(r"seen/[0-9]{4}\.checkpoint")
LOG_FIELDS = "agent end epoch first kind origin path size uploaded vkey"
FIELDS = "agents created filter logs range schema tenant trust_domain witness_vkey"


@dataclass(frozen=True)
class LogEntry:
    """One log of the manifest."""

    agent: str
    epoch: int
    first: int
    end: int
    size: int
    uploaded: int
    operators: bool
    origin: str
    path: str
    vkey: Vkey

    @property
    def key_file(self) -> str:
        """Where its vkey lies."""
        return f"keys/{'_operators' if self.operators else self.agent}.e{self.epoch}.vkey"


@dataclass(frozen=True)
class Manifest:
    """What the bundle says of itself."""

    agents: dict[str, int]
    created: int
    filtered: bool
    logs: tuple[LogEntry, ...]
    start: int
    stop: int
    tenant: str
    trust_domain: str
    witness: Vkey

    @property
    def operators(self) -> LogEntry | None:
        """The operators' log, if it is here."""
        return next((log for log in self.logs if log.operators), None)


def _log(value: object, domain: str, tenant: str) -> LogEntry:
    fields = record(value, *LOG_FIELDS.split())
    epoch, kind = decimal(fields["epoch"]), text(fields["kind"], "agent|operators")
    operators = kind == "operators"
    agent = text(fields["agent"], "" if operators else AGENT)
    origin = f"{domain}/{tenant}/{agent}/e{epoch}"
    path = f"logs/{agent}/e{epoch}"
    if operators:
        origin, path = f"{domain}/_operators/coordinator/e{epoch}", f"operators/e{epoch}"
    if (fields["origin"], fields["path"]) != (origin, path) or epoch < 1:
        raise Refused("an origin or a path that does not fit")
    first, end, size, uploaded = (
        decimal(fields[name]) for name in ("first", "end", "size", "uploaded")
    )
    if not first <= end <= uploaded or size > uploaded:
        raise Refused("a range or a size beyond what was uploaded")
    key = parse_vkey(text(fields["vkey"]))
    if key.name != origin or key.kind != (LOG if operators else TERM):
        raise Refused("a key of another log, or of another type")
    return LogEntry(agent, epoch, first, end, size, uploaded, operators, origin, path, key)


def _agents(value: object) -> dict[str, int]:
    pairs = []
    for item in items(value):
        fields = record(item, "agent", "last_seen")
        pairs.append((text(fields["agent"], AGENT), decimal(fields["last_seen"])))
    if [name for name, _ in pairs] != sorted({name for name, _ in pairs}):
        raise Refused("agents out of order")
    return dict(pairs)


def _filter(value: object) -> bool:
    fields = record(value, "commitments", "models", "workflows")
    for name, most in (("commitments", 5_000), ("models", 64), ("workflows", 64)):
        for item in items(fields[name], most):
            text(item, r"(?s).{1,255}")
    return any(fields.values())


def parse_manifest(data: bytes) -> Manifest:
    """Read manifest.json."""
    fields = record(parse(data), *FIELDS.split())
    if fields["schema"] != "exclave.bundle/v1":
        raise Refused("another schema")
    domain, tenant = text(fields["trust_domain"], r"[^/]+"), text(fields["tenant"], AGENT)
    asked = record(fields["range"], "from", "to")
    logs = tuple(_log(item, domain, tenant) for item in items(fields["logs"]))
    witness = parse_vkey(text(fields["witness_vkey"]))
    if len({log.origin for log in logs}) != len(logs) or witness.kind != WITNESS:
        raise Refused("a log twice, or another key as the witness's")
    if sum(log.operators for log in logs) > 1:
        raise Refused("more than one operators' log")
    return Manifest(
        _agents(fields["agents"]),
        time_ns(fields["created"]),
        _filter(fields["filter"]),
        logs,
        decimal(asked["from"]),
        decimal(asked["to"]),
        tenant,
        domain,
        witness,
    )


def check_sums(files: dict[str, bytes]) -> None:
    """Step 2: every file but two, each once."""
    listed: dict[str, str] = {}
    lines = files.get("SHA256SUMS", b"").decode("ascii", "replace")
    if not lines.endswith("\n"):
        raise Refused("SHA256SUMS without its end")
    for line in lines[:-1].split("\n"):
        match = re.fullmatch(r"([0-9a-f]{64})  (\S+)", line)
        if match is None or match[2] in listed:
            raise Refused("not a line of SHA256SUMS")
        listed[match[2]] = match[1]
    rest = {name: data for name, data in files.items() if name not in _UNLISTED}
    if listed != {name: sha256(data).hexdigest() for name, data in rest.items()}:
        raise Refused("a file is not as SHA256SUMS lists it")


_UNLISTED = ("SHA256SUMS", "manifest.dsse.json")


def check_files(files: dict[str, bytes], manifest: Manifest) -> None:
    """Step 3: the files that the manifest's logs need, and nothing else."""
    needed, allowed = set(NEEDED), set(OPTIONAL)
    for log in manifest.logs:
        needed |= {log.key_file, f"{log.path}/checkpoint", f"{log.path}/hashes"}
        if not log.operators:
            needed.add(f"logs/{log.agent}/registration.json")
            allowed.add(f"{log.path}/cosigned.proof")
    if manifest.operators:
        needed.add("manifest.dsse.json")
    for name in files.keys() - needed - allowed:
        inner = [name[len(log.path) + 1 :] for log in manifest.logs if _inside(name, log)]
        if not any(RECORDS.fullmatch(part) or SEEN.fullmatch(part) for part in inner):
            raise Refused(f"{name}: not a bundle's file")
    if needed - files.keys():
        raise Refused(f"missing: {', '.join(sorted(needed - files.keys()))}")
    if sha256(files["VERIFY.md"]).hexdigest() != GUIDE:
        raise Refused("VERIFY.md is not this version's")


def check_registrations(files: dict[str, bytes], manifest: Manifest) -> None:
    """What is on file of an agent is canonical JSON, whatever it says."""
    for agent in {log.agent for log in manifest.logs if not log.operators}:
        parse(files[f"logs/{agent}/registration.json"])


def _inside(name: str, log: LogEntry) -> bool:
    return name.startswith(f"{log.path}/")


def check_keys(files: dict[str, bytes], manifest: Manifest, pins: Sequence[Vkey]) -> None:
    """Step 4: the keys that lie there are the manifest's, and those that the auditor pinned."""
    keys = {log.key_file: log.vkey for log in manifest.logs}
    for name, key in (keys | {"keys/witness.vkey": manifest.witness}).items():
        if files[name] != key.line.encode() + b"\n":
            raise Refused(f"{name}: another key than the manifest's")
    for pin in pins:
        for key in keys.values():
            if pin.name == key.name and pin != key:
                raise Refused(f"{key.name}: not the key that was pinned")


def _signature(line: object) -> bytes:
    """One signature; its keyid is a hint, and nothing that DSSE lets anybody rely on."""
    hint = ["keyid"] if isinstance(line, dict) and "keyid" in line else []
    return unb64(record(line, "sig", *hint)["sig"])


def check_statement(files: dict[str, bytes], manifest: Manifest) -> None:
    """Step 5: the operators' log's key stands for manifest and sums."""
    if manifest.operators is None:
        return
    key = manifest.operators.vkey
    envelope = record(loose(files["manifest.dsse.json"]), "payload", "payloadType", "signatures")
    payload = unb64(envelope["payload"])
    said = b"DSSEv1 %d %s %d %s" % (len(STATEMENT), STATEMENT.encode(), len(payload), payload)
    good = [key.holds(_signature(line), said) for line in items(envelope["signatures"])]
    if envelope["payloadType"] != STATEMENT or not any(good):
        raise Refused("a statement that the operators' log's key did not sign")
    wanted = {
        "manifest": sha256(files["manifest.json"]).hexdigest(),
        "schema": "exclave.bundle-statement/v1",
        "sums": sha256(files["SHA256SUMS"]).hexdigest(),
    }
    if payload != canonical(wanted):
        raise Refused("a statement about other files")
