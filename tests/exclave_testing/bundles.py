"""Builds logs, keys and bundles for tests: real signatures, deterministic keys and clocks."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from exclave_protocol import layout
from exclave_protocol.bundle import BundleSpec, LogSpec, write_bundle
from exclave_protocol.canonical import JsonValue
from exclave_protocol.checkpoint import (
    Checkpoint,
    CosignerKey,
    cosign,
    cosigned_origin,
    log_origin,
    operator_origin,
    sign_checkpoint,
)
from exclave_protocol.disclosure import Disclosure, make
from exclave_protocol.dsse import Envelope
from exclave_protocol.epoch import link
from exclave_protocol.leaf import NO_PREV, Leaf, LeafType, encode_leaf
from exclave_protocol.note import SigningKey, TermKey, VerifyKey, add_signature, split_note
from exclave_protocol.proof import make_proof
from exclave_protocol.tree import MemoryTree, leaf_hash, root_of
from exclave_protocol.witness import cosigned_body

from .terms import term_key

DOMAIN = "exclave.test"
TENANT = "acme"
START = 1_800_000_000
"""When every log of these tests begins, seconds since the Unix epoch."""
STEP = 60
"""Seconds from one leaf to the next."""
BEFORE = 5
"""Leaves of an epoch that another continues."""


def private_key(seed: str) -> Ed25519PrivateKey:
    """The same key for the same seed."""
    return Ed25519PrivateKey.from_private_bytes(sha256(seed.encode()).digest())


def witness_key(seed: str = "witness") -> CosignerKey:
    """A witness's key."""
    return CosignerKey(f"{DOMAIN}/witness", private_key(seed))


@dataclass
class Log:
    """A log under construction: leaves are appended, checkpoints are signed over any prefix."""

    agent: str
    epoch: int = 1
    seed: str = ""
    term: int = 1
    leaves: list[bytes] = field(default_factory=list)

    @property
    def origin(self) -> str:
        """As the checkpoint names it."""
        if not self.agent:
            return operator_origin(DOMAIN, self.epoch)
        return log_origin(DOMAIN, TENANT, self.agent, self.epoch)

    @property
    def private(self) -> Ed25519PrivateKey:
        """Of the log's own key."""
        return private_key(f"{self.seed}{self.origin}")

    @property
    def key(self) -> TermKey | SigningKey:
        """What signs: a term of an agent's log, the operators' log's own key."""
        if not self.agent:
            return SigningKey(self.origin, self.private)
        return term_key(self.origin, self.private, self.term)

    @property
    def vkey(self) -> str:
        """What verifies that."""
        return self.key.verify_key.vkey

    @property
    def plain(self) -> VerifyKey:
        """What verifies it for those who know nothing of terms."""
        return self.key.plain_key if isinstance(self.key, TermKey) else self.key.verify_key

    @property
    def hashes(self) -> list[bytes]:
        """Leaf hashes."""
        return [leaf_hash(leaf) for leaf in self.leaves]

    def append(
        self,
        kind: LeafType,
        body: Mapping[str, JsonValue],
        *,
        sd: Sequence[str] = (),
        at: int | None = None,
    ) -> bytes:
        """Add one leaf, `at` seconds after the start (default: `STEP` after the one before)."""
        seq = len(self.leaves)
        prev = leaf_hash(self.leaves[-1]) if self.leaves else NO_PREV
        seconds = START + (seq * STEP if at is None else at)
        leaf = Leaf(
            self.origin, self.epoch, seq, prev, kind, seconds * 10**9, body, tuple(sorted(sd))
        )
        self.leaves.append(encode_leaf(leaf))
        return self.leaves[-1]

    def fill(self, size: int) -> Log:
        """Grow to `size` leaves: GENESIS, BOOT, then decisions."""
        while len(self.leaves) < size:
            seq = len(self.leaves)
            if seq == 0:
                spiffe = f"spiffe://{DOMAIN}/tenant/{TENANT}/agent/{self.agent}"
                self.append(
                    LeafType.GENESIS, {"agent": spiffe, "audit_vkey": self.vkey, "version": "1"}
                )
            elif seq == 1 and self.epoch > 1:
                before = Log(self.agent, self.epoch - 1, self.seed).fill(BEFORE)
                self.append(
                    LeafType.EPOCH,
                    {"previous": link(before.checkpoint(), before.cosigned()), "reason": "test"},
                )
            elif seq == 1:
                self.append(LeafType.BOOT, {"boot_id": "00" * 16})
            elif seq % 2 == 0:
                self.append(
                    LeafType.INTENT,
                    {"decision": f"{seq:032x}", "action": "chat"},
                    sd=[item.digest for item in secrets(self.origin, seq)],
                )
            else:
                self.append(
                    LeafType.RESULT,
                    {"decision": f"{seq - 1:032x}", "intent": str(seq - 1), "outcome": "answered"},
                )
        return self

    def checkpoint(self, size: int | None = None) -> Checkpoint:
        """Over the first `size` leaves."""
        count = len(self.leaves) if size is None else size
        return Checkpoint(self.origin, count, root_of(self.hashes[:count]))

    def signed(self, size: int | None = None) -> bytes:
        """Signed by the log's key alone."""
        return sign_checkpoint(self.checkpoint(size), self.key)

    def cosigned(self, size: int | None = None, witness: CosignerKey | None = None) -> bytes:
        """Signed by the log's key and the witness."""
        checkpoint = self.checkpoint(size)
        when = START + checkpoint.size * STEP
        line = cosign(checkpoint.text(), witness or witness_key(), when)
        return add_signature(self.signed(size), line)


def recorded(log: Log, note: bytes) -> bytes:
    """That the cosignature of a note is in the witness's log; empty when it has none."""
    text, signatures = split_note(note) if note else ("", [])
    line = next((s for s in signatures if s.name == witness_key().name), None)
    if line is None or not log.agent or len(line.data) != 72:
        return b""
    at = int.from_bytes(line.data[:8], "big")
    own = SigningKey(cosigned_origin(DOMAIN), Log("").private)
    opening = Leaf(own.name, 1, 0, NO_PREV, LeafType.GENESIS, START * 10**9, {"v": "1"})
    first = encode_leaf(opening)
    body = cosigned_body(Checkpoint.parse(text), at)
    leaf = encode_leaf(Leaf(own.name, 1, 1, leaf_hash(first), LeafType.COSIGNED, at * 10**9, body))
    tree = MemoryTree([leaf_hash(first), leaf_hash(leaf)])
    head = sign_checkpoint(Checkpoint(own.name, 2, tree.root()), own)
    return make_proof(leaf, 1, head, 2, tree.node).encode()


def secrets(origin: str, seq: int) -> list[Disclosure]:
    """The private fields of the INTENT at `seq`."""
    salts = [sha256(f"{origin}{seq}{name}".encode()).digest() for name in ("prompt", "context")]
    prompt: JsonValue = [{"role": "user", "content": f"the secret of seq {seq}"}]
    return [make("prompt", prompt, salts[0]), make("context", [], salts[1])]


def spec_of(
    log: Log,
    *,
    first: int = 0,
    end: int | None = None,
    witnessed: int | None = None,
    note: bytes | None = None,
    seen: Sequence[bytes] = (),
) -> LogSpec:
    """What an honest coordinator would export of `log`; `witnessed`: the cosigned size."""
    size = len(log.leaves) if witnessed is None else witnessed
    last = size if end is None else end
    shown = log.cosigned(size) if note is None else note
    seqs = [seq for part in layout.wanted(first, last, size, log.epoch) for seq in part]
    return LogSpec(
        agent=log.agent,
        epoch=log.epoch,
        origin=log.origin,
        vkey=log.vkey,
        checkpoint=shown,
        recorded=recorded(log, shown),
        hashes=log.hashes[:size],
        first=first,
        end=last,
        uploaded=len(log.leaves),
        records=[(seq, log.leaves[seq]) for seq in seqs],
        seen=seen,
        registration={"agent": log.agent, "enrolled": "2027-01-15T08:00:00.000000000Z"},
    )


def bundle_of(
    logs: Sequence[LogSpec],
    *,
    time_from: int = 0,
    time_to: int = 0,
    witness: str | None = None,
    agents: Mapping[str, int] | None = None,
) -> BundleSpec:
    """A bundle's spec. `agents`: those on file (name, last seen), other than those of `logs`."""
    vkey = witness_key().vkey if witness is None else witness
    created = (START + 10**6) * 10**9
    known = {log.agent: START for log in logs if log.agent} | dict(agents or {})
    own = Log("").private if any(not log.agent for log in logs) else None
    listed = list(logs)
    return BundleSpec(TENANT, DOMAIN, created, time_from, time_to, vkey, known, listed, signer=own)


def honest_logs(size: int = 12) -> list[Log]:
    """Two agents, one of them in its second epoch, and the operators."""
    operators = Log("").fill(4)
    return [
        Log("edge-1").fill(size),
        Log("edge-2").fill(BEFORE),
        Log("edge-2", epoch=2).fill(size // 2),
        operators,
    ]


def write(spec: BundleSpec, path: Path) -> Path:
    """The bundle on disk."""
    with path.open("wb") as out:
        write_bundle(out, spec)
    return path


def honest(path: Path, size: int = 12) -> Path:
    """A bundle of `honest_logs`, everything witnessed."""
    return write(bundle_of([spec_of(log) for log in honest_logs(size)]), path)


def unzip(path: Path) -> dict[str, bytes]:
    """Every file of a bundle."""
    with zipfile.ZipFile(path) as bundle:
        return {name: bundle.read(name) for name in bundle.namelist()}


def rezip(files: Mapping[str, bytes], path: Path, *, resum: bool = True) -> Path:
    """A bundle of these files; `resum`: with a SHA256SUMS and a signature that fit, as a forger
    who has the coordinator's key would."""
    content = dict(files)
    if resum:
        content[layout.SUMS] = b"".join(
            f"{sha256(data).hexdigest()}  {name}\n".encode()
            for name, data in sorted(content.items())
            if name not in (layout.SUMS, layout.SIGNED)
        )
        if layout.SIGNED in content:
            content[layout.SIGNED] = signed(content)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, data in content.items():
            bundle.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    path.write_bytes(buffer.getvalue())
    return path


def signed(files: Mapping[str, bytes], seed: Log | None = None) -> bytes:
    """Who stands for these files: the operators' log's key, or that of another log."""
    digests = (sha256(files.get(name, b"")).hexdigest() for name in (layout.MANIFEST, layout.SUMS))
    envelope = Envelope.signed(
        layout.STATEMENT_TYPE, layout.statement(*digests), [(seed or Log("")).private]
    )
    return envelope.encode()


def tamper(
    source: Path, target: Path, change: Callable[[dict[str, bytes]], None], *, resum: bool = True
) -> Path:
    """A copy of a bundle with its files changed."""
    files = unzip(source)
    change(files)
    return rezip(files, target, resum=resum)


def altered(spec: LogSpec, **changes: object) -> LogSpec:
    """The same log, told differently."""
    return replace(spec, **changes)  # type: ignore[arg-type]  # tests name existing fields
