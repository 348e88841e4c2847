"""The folder in which a tenant's metadata is drafted, signed and kept.

WORKSPACE/
  tenant.json         which tenant, the coordinator's online keys
  drafts/             all that a signing machine needs, nothing secret
    root.json         a root not yet published
    targets.json      targets not yet published
    trusted-root.json the published root that judges the drafts
    release.json      the manifest that the targets draft adds, for the signer to read
    policy.json       its policy pack
  published/          N.root.json and targets.json as the coordinator has them
  blobs/<sha256>      manifests and packs built here
  files.json          where model files lie, by digest
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from exclave_ctl import files
from exclave_ctl.errors import CtlError
from exclave_protocol.errors import MetadataError
from exclave_protocol.release import digest_of
from exclave_protocol.wire import MAX_METADATA

if TYPE_CHECKING:
    from securesystemslib.signer import Signer
    from tuf.api.metadata import Metadata, Root, Targets

    from exclave_protocol.tufmeta import SignatureState

SCHEMA: Final = "exclave.workspace/v1"


@dataclass(frozen=True, slots=True)
class RoleState:
    """How far one draft is signed, by one delegator's reckoning."""

    role: str
    """"root", "root (current keys)" or "targets"."""
    version: int
    state: SignatureState
    missing_owners: tuple[str, ...]
    """The keys that may still sign, with their owners' names."""


@dataclass(frozen=True, slots=True)
class Drafts:
    """The drafts folder: may be copied to a machine that knows nothing else."""

    folder: Path

    @classmethod
    def find(cls, path: Path) -> Drafts:
        """Of a workspace, or the drafts folder itself. Raises: CtlError (neither)."""
        for folder in (path / "drafts", path):
            if (folder / "root.json").exists() or (folder / "targets.json").exists():
                return cls(folder)
        if (path / "tenant.json").exists():
            raise CtlError(f"{path} holds no drafts", "run `exclave release build` first")
        raise CtlError(
            f"{path} is neither a workspace nor a drafts folder",
            "`exclave tenant create` makes a workspace; copy its drafts folder to sign elsewhere",
        )

    def read(self, name: str) -> bytes | None:
        """A draft's bytes, or None. Raises: CtlError."""
        path = self.folder / name
        return files.read(path, MAX_METADATA, "draft") if path.exists() else None

    def write(self, name: str, data: bytes) -> None:
        """Replace a draft."""
        self.folder.mkdir(parents=True, exist_ok=True)
        files.replace(self.folder / name, data)

    def drop(self, *names: str) -> None:
        """Remove drafts that have been published."""
        for name in names:
            (self.folder / name).unlink(missing_ok=True)

    def root(self) -> Metadata[Root] | None:
        """The root draft. Raises: MetadataError."""
        from exclave_protocol.tufmeta import load_root

        data = self.read("root.json")
        return None if data is None else load_root(data)

    def trusted_root(self) -> Metadata[Root] | None:
        """The published root. Raises: MetadataError."""
        from exclave_protocol.tufmeta import load_root

        data = self.read("trusted-root.json")
        return None if data is None else load_root(data)

    def targets(self) -> Metadata[Targets] | None:
        """The targets draft. Raises: MetadataError."""
        from exclave_protocol.tufmeta import load_targets

        data = self.read("targets.json")
        return None if data is None else load_targets(data)

    def judge(self) -> Root:
        """The root that will vouch for the targets draft: the drafted one, else the published.

        Raises: CtlError.
        """
        root = self.root() or self.trusted_root()
        if root is None:
            raise CtlError(
                f"{self.folder} has no root", "copy the whole drafts folder of the workspace"
            )
        return root.signed

    def _work(self) -> Iterator[tuple[str, str, str, Metadata[Root] | Metadata[Targets], Root]]:
        """(label, file, role, draft, delegator) of every signature count that must be met."""
        root, trusted, targets = self.root(), self.trusted_root(), self.targets()
        if root is not None:
            if trusted is not None:
                yield "root (current keys)", "root.json", "root", root, trusted.signed
            yield "root", "root.json", "root", root, root.signed
        if targets is not None:
            yield "targets", "targets.json", "targets", targets, self.judge()

    def states(self) -> list[RoleState]:
        """Every signature count that must be met before publication. Raises: MetadataError."""
        from exclave_ctl.keys import owner
        from exclave_protocol.tufmeta import missing_signatures

        states = []
        for label, _, role, draft, delegator in self._work():
            state = missing_signatures(draft, delegator, role)
            owners = tuple(owner(delegator.keys[keyid]) for keyid in state.missing_keyids)
            states.append(RoleState(label, draft.signed.version, state, owners))
        return states

    def sign(self, signer: Signer) -> list[str]:
        """Sign every draft that names the key and lacks its signature; returns which.

        Raises: CtlError (no draft names the key), MetadataError (the signer failed).
        """
        from exclave_protocol.tufmeta import add_signature, missing_signatures, to_bytes

        keyid = signer.public_key.keyid
        named = False
        signed: list[str] = []
        for _, file, role, draft, delegator in list(self._work()):
            if keyid not in delegator.roles[role].keyids:
                continue
            named = True
            if (
                file in signed
                or keyid not in missing_signatures(draft, delegator, role).missing_keyids
            ):
                continue
            add_signature(draft, signer)
            self.write(file, to_bytes(draft))
            signed.append(file)
        if not named:
            raise CtlError(
                f"key {keyid[:8]} is not one of the keys that sign these drafts",
                "`exclave release show` lists the keys that may",
            )
        return [name.removesuffix(".json") for name in signed]

    def merge(self, other: Drafts) -> int:
        """Take over the signatures of another copy; returns how many were new.

        Raises: CtlError (the copies differ in what is signed), MetadataError.
        """
        from exclave_protocol.tufmeta import merge_signatures, to_bytes

        added = 0
        try:
            mine, theirs = self.root(), other.root()
            if mine is not None and theirs is not None and (n := merge_signatures(mine, theirs)):
                self.write("root.json", to_bytes(mine))
                added += n
            ours, others = self.targets(), other.targets()
            if ours is not None and others is not None and (n := merge_signatures(ours, others)):
                self.write("targets.json", to_bytes(ours))
                added += n
        except MetadataError as error:
            raise CtlError(
                f"{error.message}", "sign copies of the same build: build once, then copy"
            ) from error
        return added


@dataclass(frozen=True, slots=True)
class Workspace:
    """One tenant's workspace on the machine where releases are built and published."""

    folder: Path
    tenant: str
    trust_domain: str

    @classmethod
    def create(
        cls, folder: Path, *, tenant: str, trust_domain: str, root_draft: bytes
    ) -> Workspace:
        """Lay out a new workspace with its root draft. Raises: CtlError (it exists)."""
        if (folder / "tenant.json").exists():
            raise CtlError(f"{folder} is already a workspace", "choose another folder with -o")
        for name in ("drafts", "published", "blobs"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        workspace = cls(folder, tenant, trust_domain)
        workspace.drafts.write("root.json", root_draft)
        value = {"schema": SCHEMA, "tenant": tenant, "trust_domain": trust_domain}
        files.create(folder / "tenant.json", files.json_bytes(value))
        return workspace

    @classmethod
    def load(cls, folder: Path) -> Workspace:
        """Open a workspace. Raises: CtlError."""
        if not (folder / "tenant.json").exists():
            raise CtlError(f"{folder} is not a workspace", "`exclave tenant create` makes one")
        value = files.read_json(folder / "tenant.json", "workspace")
        tenant, domain = value.get("tenant"), value.get("trust_domain")
        if value.get("schema") != SCHEMA or not isinstance(tenant, str):
            raise CtlError(f"{folder}/tenant.json is not of schema {SCHEMA}")
        return cls(folder, tenant, str(domain))

    @property
    def drafts(self) -> Drafts:
        """What waits for signatures or publication."""
        return Drafts(self.folder / "drafts")

    # --- what is published ---

    def published_root(self, version: int | None = None) -> bytes | None:
        """A published root's bytes; None as version: the newest. Raises: CtlError."""
        if version is None:
            version = max(self._root_versions(), default=0)
        path = self.folder / "published" / f"{version}.root.json"
        return files.read(path, MAX_METADATA, "root") if path.exists() else None

    def seen_root(self, version: int) -> bytes:
        """A root that was published, so it must be here. Raises: CtlError naming its file."""
        data = self.published_root(version)
        if data is None:
            raise CtlError(
                f"{self.folder}/published/{version}.root.json is missing",
                "restore the workspace from its backup",
            )
        return data

    def _root_versions(self) -> list[int]:
        names = (p.name.removesuffix(".root.json") for p in self._published("*.root.json"))
        return [int(name) for name in names if name.isdecimal()]

    def _published(self, pattern: str) -> list[Path]:
        return list((self.folder / "published").glob(pattern))

    def published_targets(self) -> bytes | None:
        """The published targets' bytes, as last seen. Raises: CtlError."""
        path = self.folder / "published" / "targets.json"
        return files.read(path, MAX_METADATA, "targets") if path.exists() else None

    def record_root(self, data: bytes, version: int) -> None:
        """Keep a verified published root; it now judges the drafts."""
        (self.folder / "published").mkdir(exist_ok=True)
        files.replace(self.folder / "published" / f"{version}.root.json", data)
        self.drafts.write("trusted-root.json", data)
        draft = self.drafts.root()
        if draft is not None and draft.signed.version <= version:
            self.drafts.drop("root.json")

    def record_targets(self, data: bytes) -> None:
        """Keep verified published targets; a draft of the same content is done."""
        from exclave_protocol.tufmeta import load_targets

        (self.folder / "published").mkdir(exist_ok=True)
        files.replace(self.folder / "published" / "targets.json", data)
        draft = self.drafts.targets()
        if draft is not None and draft.signed_bytes == load_targets(data).signed_bytes:
            self.drafts.drop("targets.json", "release.json", "policy.json")

    def root_pin(self) -> str:
        """The pin of root version 1, drafted or published. Raises: CtlError."""
        from exclave_protocol.tufmeta import load_root, root_pin

        data = self.published_root(1) or self.drafts.read("root.json")
        if data is None or load_root(data).signed.version != 1:
            raise CtlError(f"{self.folder} does not hold root version 1")
        return root_pin(data)

    # --- the files that targets name ---

    def add_blob(self, data: bytes) -> str:
        """Keep small bytes built here; returns their digest."""
        digest = digest_of(data)
        (self.folder / "blobs").mkdir(exist_ok=True)
        files.replace(self.folder / "blobs" / digest, data)
        return digest

    def add_file(self, digest: str, path: Path) -> None:
        """Remember where the file with this digest lies."""
        index = self._index() | {digest: str(path.resolve())}
        files.replace(self.folder / "files.json", files.json_bytes(index))

    def find(self, digest: str) -> Path | None:
        """Where the bytes with this digest lie, if they still do."""
        blob = self.folder / "blobs" / digest
        if blob.exists():
            return blob
        path = self.place(digest)
        return path if path is not None and path.is_file() else None

    def place(self, digest: str) -> Path | None:
        """Where the file with this digest lay when it was added; None: it was built here."""
        known = self._index().get(digest)
        return None if known is None else Path(known)

    def _index(self) -> dict[str, str]:
        path = self.folder / "files.json"
        value = files.read_json(path, "file index") if path.exists() else {}
        return {str(key): str(where) for key, where in value.items()}
