"""Verifies audit bundles and disclosures offline: bytes in, numbered steps and a verdict out.

Which keys to believe is the auditor's decision: what is pinned is used, whatever the bundle
says; what is not pinned comes from the bundle, and the report says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from . import layout
from .archive import Archive
from .byhand import KNOWN_TEXTS
from .dsse import Envelope
from .errors import EvidenceError, NoteError, ReleaseError
from .index import Index
from .layout import Manifest
from .logcheck import Foreign, LogCheck
from .note import COSIGNATURE, ED25519, TERM, VerifyKey, split_note
from .opened import Opening, check_opening, read_opening
from .opened import make_disclosure_file as make_disclosure_file
from .recorded import recorder
from .report import Findings as Findings
from .report import Report as Report
from .report import Step as Step
from .report import Verdict as Verdict
from .tally import Tally
from .whole import check_agents, check_epochs, check_links, check_made, check_registration


@dataclass(frozen=True, slots=True)
class Trust:
    """What the auditor brings along."""

    witness_vkey: str | None = None
    """The witness's key as it reached the auditor by another way than the bundle."""
    log_vkeys: Sequence[str] = ()
    """Keys of logs, each named by its log's origin."""
    checkpoints: Sequence[Foreign] = ()
    """Signed checkpoints, from the tenant say: a bundle that contradicts one has DIVERGED."""


@dataclass(slots=True)
class _Keys:
    """Keys in use, and where each came from."""

    witness: VerifyKey
    logs: dict[str, VerifyKey]
    recorder: VerifyKey | None
    """Of the witness's log; None: nothing here says."""
    trust: list[str]


@dataclass(slots=True)
class _Verification:
    """One run; steps are added as they are made."""

    archive: Archive
    trust: Trust
    probes: Mapping[str, set[int]]
    """Origin -> seqs whose leaf hash is asked for."""
    steps: list[Step] = field(default_factory=list)
    trusted: list[str] = field(default_factory=list)
    probed: dict[tuple[str, int], bytes] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    """SHA-256 of every file, as it was read."""
    index: Index = field(default_factory=Index)

    def run(self) -> None:
        """All steps; stops early where nothing further could be read."""
        self._inventory()
        manifest = self._manifest()
        keys = self._keys(manifest) if manifest is not None else None
        if manifest is None or keys is None:
            return
        self._signed(manifest, keys)
        tallies, checks = [], dict[tuple[str, int], LogCheck]()
        for log in manifest.logs:
            brought = [f for f in self.trust.checkpoints if _origin(f.note) == log.origin]
            check = LogCheck(
                self.archive,
                manifest,
                log,
                keys.logs[log.origin],
                keys.witness,
                brought,
                self.probes.get(log.origin, set()),
                self.index,
                keys.recorder,
            )
            self.steps += check.steps(self._next())
            tallies.append(check.walk.tally)
            checks[log.agent, log.epoch] = check
            self.probed.update(
                ((log.origin, seq), value) for seq, value in check.walk.probed.items()
            )
        self._links(checks)
        self._whole(manifest, tallies)

    def _next(self) -> int:
        """The number of the next step: what stands before the dot of the last, counted on."""
        return 1 + int(self.steps[-1].number.partition(".")[0])

    def _add(self, title: str, found: Findings, good: str, notes: Iterable[str] = ()) -> None:
        self.steps.append(found.step(str(self._next()), title, good, notes))

    def _inventory(self) -> None:
        """SHA256SUMS names every file, and every file is as it says."""
        archive, found = self.archive, Findings()
        sums: dict[str, str] = {}
        try:
            for line in archive.read(layout.SUMS, layout.MAX_JSON).decode("ascii").splitlines():
                digest, _, name = line.partition("  ")
                if name in sums:
                    raise EvidenceError(f"{layout.SUMS}: a name stands twice")
                sums[name] = digest
        except UnicodeDecodeError:
            found.add(Verdict.INVALID, f"{layout.SUMS}: altered (not ASCII)")
        except EvidenceError as error:
            found.add(Verdict.INVALID, str(error))
        names = [name for name in archive.names if name not in (layout.SUMS, layout.SIGNED)]
        if sums:
            for name in sorted(sums.keys() - set(names)):
                found.add(Verdict.INVALID, f"{layout.shown(name)}: listed, but not there")
            for name in sorted(set(names) - sums.keys()):
                found.add(Verdict.INVALID, f"{name}: there, but not listed")
        elif not found.count:
            found.add(Verdict.INVALID, f"{layout.SUMS}: empty")
        for name in names:
            self._check_digest(name, sums.get(name), found)
        for name in {layout.SUMS, layout.SIGNED} & set(archive.names):
            self._check_digest(name, None, found)
        self._add(
            "every file is as SHA256SUMS lists it",
            found,
            f"{len(names)} files",
            [_run_with_care(sums[name]) for name in names if name == layout.VERIFIER in sums],
        )

    def _check_digest(self, name: str, expected: str | None, found: Findings) -> None:
        digest = sha256()
        try:
            for chunk in self.archive.chunks(name):
                digest.update(chunk)
        except EvidenceError as error:
            found.add(Verdict.INVALID, str(error))
            return
        self.digests[name] = digest.hexdigest()
        if expected is not None and digest.hexdigest() != expected:
            found.add(Verdict.INVALID, f"{name}: altered (its SHA-256 is not the listed one)")
        if name == layout.BY_HAND and digest.hexdigest() not in KNOWN_TEXTS:
            found.add(Verdict.INVALID, f"{name}: not the text that bundles of this version carry")

    def _manifest(self) -> Manifest | None:
        """The manifest, and the files it asks for, no fewer and no more."""
        found, manifest, good = Findings(), None, ""
        try:
            data = self.archive.read(layout.MANIFEST, layout.MAX_JSON)
            manifest = Manifest.from_bytes(data)
            good = (
                f"tenant {manifest.tenant} of {layout.shown(manifest.trust_domain)}, "
                f"{len(manifest.logs)} logs, range {manifest.time_from} to "
                f"{manifest.time_to or 'open'} (seconds since 1970)"
            )
            self._check_files(manifest, found)
        except EvidenceError as error:
            found.add(Verdict.INVALID, str(error))
        self._add("the manifest fits the files", found, good)
        return manifest

    def _check_files(self, manifest: Manifest, found: Findings) -> None:
        expected = {
            layout.MANIFEST,
            layout.SUMS,
            layout.BY_HAND,
            layout.COMPLETENESS,
            layout.WITNESS_KEY,
        }
        if any(not log.agent for log in manifest.logs):
            expected.add(layout.SIGNED)
        for log in manifest.logs:
            expected |= {log.key_file, f"{log.place}/checkpoint", f"{log.place}/hashes"}
            if log.agent:
                expected.add(f"logs/{log.agent}/registration.json")
        may_be = layout.MAY_BE | {log.proof_file for log in manifest.logs if log.agent}
        many = {f"{log.place}/{kind}" for log in manifest.logs for kind in ("records", "seen")}
        for name in sorted(expected - set(self.archive.names)):
            found.add(Verdict.INVALID, f"{name}: missing")
        for name in self.archive.names:
            place = name.rpartition("/")[0]
            if name not in expected and place not in many and name not in may_be:
                found.add(Verdict.INVALID, f"{name}: belongs to no log of the manifest")

    def _keys(self, manifest: Manifest) -> _Keys | None:
        """The keys to verify with: pinned ones first. None: the bundle's cannot be used."""
        found = Findings()
        keys: _Keys | None = None
        try:
            stated = self._key(manifest.witness_vkey, layout.WITNESS_KEY)
            if stated.kind != COSIGNATURE:
                raise EvidenceError("witness key: not a cosigner's (type 0x04)")
            pinned = {key.name: key for key in map(VerifyKey.parse, self.trust.log_vkeys)}
            keys = _Keys(stated, {}, None, [])
            self._pin_witness(stated, keys)
            for log in manifest.logs:
                key = self._key(log.vkey, log.key_file)
                if key.name != log.origin or key.kind != (TERM if log.agent else ED25519):
                    raise EvidenceError(f"{log.key_file}: not the key of {log.origin}")
                if key.public == keys.witness.public:
                    raise EvidenceError(f"{log.key_file}: the log's key is the witness's own")
                known = pinned.get(log.origin)
                if known is not None and known != key:
                    raise EvidenceError(f"{log.key_file}: not the key that you pinned")
                keys.logs[log.origin] = key
                if not log.agent:
                    keys.recorder = recorder(manifest.trust_domain, key)
                where = "from the bundle" if known is None else "pinned by you"
                keys.trust.append(f"key of {log.origin} {where}: {key.vkey}")
        except (EvidenceError, NoteError) as error:
            found.add(Verdict.INVALID, str(error))
            keys = None
        self._add("the keys are well-formed and belong to their logs", found, "see trust below")
        self.trusted += keys.trust if keys else []
        return keys

    def _pin_witness(self, stated: VerifyKey, keys: _Keys) -> None:
        if self.trust.witness_vkey is None:
            keys.trust.append(
                f"witness key from the bundle: {stated.vkey} (whoever made the bundle could "
                "have made this key: compare it, or pin it with --witness-key)"
            )
            return
        keys.witness = VerifyKey.parse(self.trust.witness_vkey)
        keys.trust.append(f"witness key pinned by you: {keys.witness.vkey}")
        if keys.witness != stated:
            keys.trust.append(f"the bundle names another witness key, ignored: {stated.vkey}")

    def _key(self, vkey: str, file: str) -> VerifyKey:
        if self.archive.read(file, layout.MAX_SMALL) != f"{vkey}\n".encode():
            raise EvidenceError(f"{file}: not the key that manifest.json names")
        return VerifyKey.parse(vkey)

    def _signed(self, manifest: Manifest, keys: _Keys) -> None:
        """Whoever keeps the operators' log stands for the bundle as a whole."""
        found, notes, good = Findings(), [], ""
        log = next((log for log in manifest.logs if not log.agent), None)
        if log is None:
            notes.append("nobody has signed the manifest: what it says of agents is hearsay")
        else:
            key = keys.logs[log.origin]
            good = f"by the key of {log.origin}"
            try:
                envelope = Envelope.decode(self.archive.read(layout.SIGNED, layout.MAX_SMALL))
                stated = envelope.verify(
                    layout.STATEMENT_TYPE, [Ed25519PublicKey.from_public_bytes(key.public)]
                )
                sums = self.digests.get(layout.SUMS, ""), self.digests.get(layout.MANIFEST, "")
                if stated != layout.statement(sums[1], sums[0]):
                    raise EvidenceError("it is of another manifest, or of other files")
            except (EvidenceError, ReleaseError) as error:
                found.add(Verdict.INVALID, f"{layout.SIGNED}: {error}")
        self._add("the manifest is signed by whoever wrote the bundle", found, good, notes)

    def _links(self, checks: Mapping[tuple[str, int], LogCheck]) -> None:
        """Each later epoch continues the one before where that was cosigned last."""
        found = Findings()
        linked = check_links(checks, found)
        self._add("every epoch continues the one before", found, "; ".join(linked))

    def _whole(self, manifest: Manifest, tallies: list[Tally]) -> None:
        """What no single log shows."""
        found, notes = Findings(), []
        if all(step.verdict is not Verdict.INVALID for step in self.steps):
            # Otherwise the records were not all counted, and the comparison means nothing.
            try:
                check_made(self.archive, manifest, tallies, self.index, self.digests)
                for log in manifest.logs:
                    check_registration(self.archive, log)
            except EvidenceError as error:
                found.add(Verdict.INVALID, str(error))
        agents = check_epochs(manifest, found)
        notes += check_agents(manifest, found)
        if all(log.agent for log in manifest.logs):
            notes.append("the operators' log is not part of this bundle")
        origins = {log.origin for log in manifest.logs}
        for foreign in self.trust.checkpoints:
            if not (origin := _origin(foreign.note)):
                found.add(Verdict.INVALID, f"{foreign.source}: not a checkpoint")
            elif origin not in origins:
                found.add(Verdict.INCOMPLETE, f"{foreign.source}: its log is not in the bundle")
        self._add(
            "the bundle is whole, and completeness.json says what the records show",
            found,
            f"{agents} agents",
            notes,
        )


def _run_with_care(digest: str) -> str:
    """Of the verifier that came along: only its publisher can say whether it is his."""
    return (
        f"{layout.VERIFIER} is whoever's who made this bundle: run it only if its publisher names "
        f"this SHA-256: {layout.shown(digest)}"
    )


def _origin(note: bytes) -> str:
    """The log that a note claims to be of; empty when it does not parse."""
    try:
        return split_note(note)[0].partition("\n")[0]
    except NoteError:
        return ""


def _verify(path: Path, trust: Trust, openings: Sequence[Opening]) -> Report:
    for vkey in [*trust.log_vkeys, *([trust.witness_vkey] if trust.witness_vkey else [])]:
        VerifyKey.parse(vkey)
    probes: dict[str, set[int]] = {}
    for opening in openings:
        probes.setdefault(opening.log, set()).add(opening.seq)
    found, run = Findings(), None
    with path.open("rb") as file:
        try:
            archive = Archive(file, layout.KNOWN_FILE.fullmatch)
            run = _Verification(archive, trust, probes)
        except EvidenceError as error:
            found.add(Verdict.INVALID, str(error))
        first = found.step("1", "the zip is well-formed and holds only a bundle's files", "")
        if run is None:
            return Report((first,), ())
        run.steps.append(first)
        run.run()
    for opening in openings:
        number = str(1 + int(run.steps[-1].number.partition(".")[0]))
        hash_ = run.probed.get((opening.log, opening.seq))
        run.steps.append(check_opening(opening, hash_, number))
    return Report(tuple(run.steps), tuple(run.trusted))


def verify_bundle(
    path: str | Path,
    *,
    witness_vkey: str | None = None,
    log_vkeys: Sequence[str] = (),
    checkpoints: Sequence[Foreign] = (),
) -> Report:
    """Verify a bundle as far as it can be read; every finding becomes a step.

    Raises: OSError (file unreadable), NoteError (a pinned key is malformed); nothing else,
    whatever the bytes.
    """
    return _verify(Path(path), Trust(witness_vkey, log_vkeys, checkpoints), ())


def verify_disclosure(
    disclosure: str | Path,
    bundle: str | Path,
    *,
    witness_vkey: str | None = None,
    log_vkeys: Sequence[str] = (),
    checkpoints: Sequence[Foreign] = (),
) -> Report:
    """Verify a bundle, and that its tree holds the record whose fields the file opens.

    Raises: as `verify_bundle`, and EvidenceError when the disclosure file is malformed.
    """
    opening = read_opening(Path(disclosure))
    return _verify(Path(bundle), Trust(witness_vkey, log_vkeys, checkpoints), [opening])
