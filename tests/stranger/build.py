"""A writer of bundles, from docs/audit-format.md, with keys of fixed seeds."""

import base64
import copy
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stranger import tree
from stranger.leaves import parse_leaf
from stranger.listings import index, listings
from stranger.logs import LogRead
from stranger.manifest import STATEMENT, parse_manifest
from stranger.notes import LOG, TERM, WITNESS, Vkey, parse_checkpoint
from stranger.whole import completeness
from stranger.wire import b64, canonical, time_text

DOMAIN, TENANT, NOW = "exclave.test", "acme", 1_800_000_000
GUIDE = Path(__file__).with_name("VERIFY.md")


class Key:
    """A key pair of a seed."""

    def __init__(self, name: str, kind: bytes = LOG, seed: str = "") -> None:
        self.private = Ed25519PrivateKey.from_private_bytes(
            sha256((seed or name).encode()).digest()
        )
        self.vkey = Vkey(name, kind, self.private.public_key().public_bytes_raw())

    def line(self, signature: bytes) -> str:
        """A note's line by this key."""
        return f"— {self.vkey.name} {b64(self.vkey.key_id + signature)}\n"

    def sign(self, text: str) -> bytes:
        """An Ed25519 signature."""
        return self.private.sign(text.encode())


WITNESS_KEY = Key(f"{DOMAIN}/witness", WITNESS)
OPERATORS = f"{DOMAIN}/_operators/coordinator/e1"
WITNESS_LOG = Key(f"{DOMAIN}/_witness/coordinator/e1", LOG, OPERATORS)


def cosign(text: str, moment: int, key: Key = WITNESS_KEY) -> str:
    """A cosignature's line."""
    signature = key.sign(f"cosignature/v1\ntime {moment}\n{text}")
    return key.line(moment.to_bytes(8) + signature)


@dataclass
class Book:
    """A log while it is written."""

    agent: str
    epoch: int = 1
    leaves: list[bytes] = field(default_factory=list)
    size: int | None = None
    seen: list[bytes] = field(default_factory=list)
    left_out: set[int] = field(default_factory=set)
    cut: tuple[int, int] | None = None
    checkpoint: bytes | None = None
    moment: int = NOW + 5_000

    def __post_init__(self) -> None:
        self.key = Key(self.origin, TERM if self.agent else LOG)
        self.term = Key(self.origin, LOG, f"{self.origin} term 1")
        spiffe = f"spiffe://{DOMAIN}/tenant/{TENANT}/agent/{self.agent}"
        self.append("GENESIS", {"agent": spiffe, "audit_vkey": self.key.vkey.line})

    @property
    def origin(self) -> str:
        """The log's origin."""
        return f"{DOMAIN}/{TENANT}/{self.agent}/e{self.epoch}" if self.agent else OPERATORS

    @property
    def path(self) -> str:
        """Where the log lies."""
        return f"logs/{self.agent}/e{self.epoch}" if self.agent else "operators/e1"

    @property
    def covered(self) -> int:
        """How many leaves the checkpoint covers."""
        return len(self.leaves) if self.size is None else self.size

    @property
    def hashes(self) -> list[bytes]:
        """All leaf hashes."""
        return [tree.leaf_hash(leaf) for leaf in self.leaves]

    def append(
        self,
        kind: str,
        body: dict[str, object],
        after: int | None = None,
        sd: Sequence[str] = (),
    ) -> None:
        """One record more, so many seconds after the log's beginning."""
        seq = len(self.leaves)
        seconds = NOW + (60 * seq if after is None else after)
        prev = tree.leaf_hash(self.leaves[-1]) if self.leaves else bytes(32)
        fields = {
            "body": body,
            "epoch": str(self.epoch),
            "log": self.origin,
            "prev": prev.hex(),
            "seq": str(seq),
            "time": time_text(seconds * 10**9),
            "type": kind,
            "v": 1,
        }
        self.leaves.append(canonical(fields | ({"sd": sorted(sd)} if sd else {})))

    def certificate(self, number: int = 1) -> bytes:
        """The log's key's word for the term's key."""
        public = self.term.vkey.public
        said = f"exclave-term/v1\n{self.origin}\n{number}\n{b64(public)}\n"
        return number.to_bytes(8) + public + self.key.sign(said)

    def text(self, size: int, root: bytes | None = None) -> str:
        """The three lines."""
        top = tree.root(self.hashes[:size]) if root is None else root
        return f"{self.origin}\n{size}\n{b64(top)}\n"

    def signed(self, size: int, root: bytes | None = None) -> bytes:
        """A checkpoint as the log signs it."""
        text = self.text(size, root)
        if not self.agent:
            return f"{text}\n{self.key.line(self.key.sign(text))}".encode()
        signature = self.term.sign(text)
        lines = self.key.line(self.certificate() + signature) + self.term.line(signature)
        return f"{text}\n{lines}".encode()

    def cosigned(self, size: int | None = None) -> bytes:
        """A checkpoint with the witness's line."""
        size = self.covered if size is None else size
        return self.signed(size) + cosign(self.text(size), self.moment).encode()

    def note(self) -> bytes:
        """What lies in the bundle as its checkpoint."""
        return self.cosigned() if self.checkpoint is None else self.checkpoint

    def on_record(self) -> bytes:
        """The proof that the cosignature is in the witness's log."""
        said: dict[str, object] = {
            "cosigned_at": str(self.moment),
            "origin": self.origin,
            "root": tree.root(self.hashes[: self.covered]).hex(),
            "size": str(self.covered),
        }
        return proof_of("COSIGNED", said)


def proof_of(kind: str, body: dict[str, object], key: Key = WITNESS_LOG) -> bytes:
    """A proof of seq 1 of a witness's log of two leaves."""
    origin = key.vkey.name
    leaves: list[bytes] = []
    for at, (name, said) in enumerate([("GENESIS", {}), (kind, body)]):
        prev = tree.leaf_hash(leaves[-1]).hex() if leaves else "0" * 64
        time = time_text((NOW + at) * 10**9)
        fields = {"body": said, "epoch": "1", "log": origin, "prev": prev, "seq": str(at)}
        leaves.append(canonical(fields | {"time": time, "type": name, "v": 1}))
    hashes = [tree.leaf_hash(leaf) for leaf in leaves]
    text = f"{origin}\n2\n{b64(tree.root(hashes))}\n"
    head = f"c2sp.org/tlog-proof@v1\nextra {b64(leaves[1])}\nindex 1\n{b64(hashes[0])}\n"
    return f"{head}\n{text}\n{key.line(key.sign(text))}".encode()


@dataclass
class Draft:
    """A bundle before it is sealed."""

    books: list[Book]
    agents: dict[str, str]
    start: int = 0
    stop: int = 0
    asked: dict[str, object] = field(
        default_factory=lambda: {"commitments": [], "models": [], "workflows": []}
    )

    def book(self, agent: str, epoch: int = 1) -> Book:
        """One of the logs."""
        return next(book for book in self.books if (book.agent, book.epoch) == (agent, epoch))

    def bounds(self, book: Book) -> tuple[int, int]:
        """First and end of the range in this log."""
        if book.cut is not None:
            return book.cut
        times = [parse_leaf(leaf).time // 10**9 for leaf in book.leaves]
        inside = [
            seq
            for seq, time in enumerate(times)
            if time >= self.start and (not self.stop or time < self.stop)
        ]
        before = sum(time < self.start for time in times)
        return (inside[0], inside[-1] + 1) if inside else (before, before)

    def manifest(self) -> bytes:
        """The bytes of manifest.json."""
        logs = []
        for book in self.books:
            first, end = self.bounds(book)
            logs.append(
                {
                    "agent": book.agent,
                    "end": str(end),
                    "epoch": str(book.epoch),
                    "first": str(first),
                    "kind": "agent" if book.agent else "operators",
                    "origin": book.origin,
                    "path": book.path,
                    "size": str(book.covered),
                    "uploaded": str(len(book.leaves)),
                    "vkey": book.key.vkey.line,
                }
            )
        fields = {
            "agents": [
                {"agent": name, "last_seen": seen} for name, seen in sorted(self.agents.items())
            ],
            "created": time_text((NOW + 10_000) * 10**9),
            "filter": self.asked,
            "logs": logs,
            "range": {"from": str(self.start), "to": str(self.stop)},
            "schema": "exclave.bundle/v1",
            "tenant": TENANT,
            "trust_domain": DOMAIN,
            "witness_vkey": WITNESS_KEY.vkey.line,
        }
        return canonical(fields)

    def chosen(self, book: Book) -> list[int]:
        """The seqs of the records that are in the bundle."""
        first, end = self.bounds(book)
        seqs = {0, first - 1, *range(first, end)} | ({1} if book.epoch > 1 else set())
        seqs |= {end} if end < book.covered else set()
        return [seq for seq in sorted(seqs - book.left_out) if 0 <= seq < len(book.leaves)]

    def files(self) -> dict[str, bytes]:
        """Everything but the sums and the statement."""
        files = {"manifest.json": self.manifest(), "VERIFY.md": GUIDE.read_bytes()}
        files["keys/witness.vkey"] = WITNESS_KEY.vkey.line.encode() + b"\n"
        for book in self.books:
            owner = book.agent or "_operators"
            files[f"keys/{owner}.e{book.epoch}.vkey"] = book.key.vkey.line.encode() + b"\n"
            files |= self._log(book)
            if book.agent:
                files[f"logs/{book.agent}/registration.json"] = canonical({"agent": book.agent})
        return self.recount(files)

    def _log(self, book: Book) -> dict[str, bytes]:
        files = {f"{book.path}/checkpoint": book.note()}
        files[f"{book.path}/hashes"] = b"".join(book.hashes[: book.covered])
        files |= record_files(book, self.chosen(book))
        for number, note in enumerate(book.seen, 1):
            files[f"{book.path}/seen/{number:04d}.checkpoint"] = note
        if book.agent and book.note():
            files[f"{book.path}/cosigned.proof"] = book.on_record()
        return files

    def recount(self, files: dict[str, bytes]) -> dict[str, bytes]:
        """What is made of the records."""
        manifest = parse_manifest(files["manifest.json"])
        logs = []
        for book, entry in zip(self.books, manifest.logs, strict=True):
            log = LogRead(entry, hashes=book.hashes[: book.covered])
            log.records = {seq: parse_leaf(book.leaves[seq]) for seq in self.chosen(book)}
            log.checkpoint = parse_checkpoint(book.signed(book.covered))
            logs.append(log)
        made = {"completeness.json": completeness(logs, manifest), "index.csv": index(logs)}
        return files | made | {"listings.json": listings(logs)}


def record_files(book: Book, seqs: Sequence[int]) -> dict[str, bytes]:
    """Files of consecutive records."""
    files: dict[str, bytes] = {}
    name, last = "", -2
    for seq in seqs:
        if seq != last + 1:
            name = f"{book.path}/records/{seq:012d}.jsonl"
        files[name] = files.get(name, b"") + book.leaves[seq] + b"\n"
        last = seq
    return files


def sums(files: dict[str, bytes]) -> bytes:
    """The bytes of SHA256SUMS."""
    names = sorted(files.keys() - {"SHA256SUMS", "manifest.dsse.json"})
    lines = [f"{sha256(files[name]).hexdigest()}  {name}\n" for name in names]
    return "".join(lines).encode()


def statement(files: dict[str, bytes], key: Key | None = None) -> bytes:
    """The bytes of manifest.dsse.json."""
    key = key or Key(OPERATORS)
    said = canonical(
        {
            "manifest": sha256(files["manifest.json"]).hexdigest(),
            "schema": "exclave.bundle-statement/v1",
            "sums": sha256(files["SHA256SUMS"]).hexdigest(),
        }
    )
    pae = b"DSSEv1 %d %s %d %s" % (len(STATEMENT), STATEMENT.encode(), len(said), said)
    keyid = sha256(key.vkey.public).hexdigest()
    line = {"keyid": keyid, "sig": b64(key.private.sign(pae))}
    payload = base64.b64encode(said).decode()
    return canonical({"payload": payload, "payloadType": STATEMENT, "signatures": [line]})


def seal(files: dict[str, bytes]) -> dict[str, bytes]:
    """Sums, and the statement where the operators' log is."""
    out = files | {"SHA256SUMS": sums(files)}
    if "keys/_operators.e1.vkey" in files:
        out["manifest.dsse.json"] = statement(out)
    return out


def entry(name: str) -> zipfile.ZipInfo:
    """A zip's entry without a date."""
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.external_attr, info.create_system = 0o100644 << 16, 3
    info.create_version = info.extract_version = 45
    info.compress_type = zipfile.ZIP_STORED if name.endswith("/hashes") else zipfile.ZIP_DEFLATED
    return info


def pack(files: dict[str, bytes]) -> bytes:
    """The zip."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(entry(name), data)
    return out.getvalue()


def _decisions(book: Book) -> None:
    model = {"name": "tiny", "digest": "sha256:" + "ab" * 32}
    policy = {"digest": "sha256:" + "cd" * 32, "rule": "r-1"}
    shared: dict[str, object] = {"decision": "d-1", "policy": policy, "model": model}
    asked = shared | {"action": "chat", "actor": {"key": "app"}, "release": {"digest": "rel"}}
    book.append("INTENT", asked | {"data_class": '=1,"2"\n'})
    book.append("RESULT", shared | {"intent": str(len(book.leaves) - 1), "outcome": "answered"})


def story() -> Draft:
    """Two agents, one of them in its second epoch, one that never came, and the operators' log."""
    first, second = Book("edge-1"), Book("edge-2")
    first.append("BOOT", {"boot_id": "0"})
    _decisions(first)
    first.append("HEARTBEAT", {"every": "60"})
    _decisions(first)
    first.append("HEARTBEAT", {"every": "60"}, 1_000)
    first.append("RESULT", {"decision": "d-2", "intent": None, "outcome": "denied"}, 1_120)
    first.append("INTENT", {"decision": "d-3", "workflow": "w"}, 1_241)
    second.append("BOOT", {"boot_id": "1"})
    _decisions(second)
    third = Book("edge-2", 2)
    third.append("EPOCH", link(second))
    _decisions(third)
    operators = Book("")
    operators.append("BOOT", {"boot_id": "2"})
    operators.append("OPERATOR", {"operator": "ada", "action": "ban", "reason": "lost"})
    agents = {"edge-1": str(NOW), "edge-2": str(NOW), "edge-3": "0"}
    return Draft([first, second, third, operators], agents)


def link(book: Book, **other: str) -> dict[str, object]:
    """The body of the EPOCH that continues this log."""
    size = book.covered
    previous = {
        "checkpoint": b64(book.cosigned()),
        "origin": book.origin,
        "root": tree.root(book.hashes[:size]).hex(),
        "size": str(size),
    }
    return {"previous": previous | other, "reason": "lost"}


STORY = story()


def draft() -> Draft:
    """The story, to be spoilt."""
    return copy.deepcopy(STORY)
