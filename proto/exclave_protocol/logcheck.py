"""Judges one log of a bundle: signed, witnessed, hashed, recorded, one history, complete."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .archive import Archive
from .checkpoint import Checkpoint, open_checkpoint, open_signed
from .errors import EvidenceError, NoteError
from .index import Index
from .layout import MAX_SMALL, LogEntry, Manifest, second
from .note import VerifyKey, open_note
from .proof import MAX_FILE as MAX_PROOF_FILE
from .recorded import check_recorded
from .report import Findings, Step, Verdict
from .walk import Walk

_CLOCK_SLACK = 300
"""Seconds by which an agent's clock may run ahead of the witness's without a note."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """A signed checkpoint from elsewhere: kept by the coordinator, or brought by the auditor."""

    source: str
    note: bytes


class LogCheck:
    """The steps of one log; `walk` holds what its records showed."""

    def __init__(
        self,
        archive: Archive,
        manifest: Manifest,
        log: LogEntry,
        key: VerifyKey,
        witness: VerifyKey,
        brought: Sequence[Foreign],
        probes: set[int],
        index: Index,
        recorder: VerifyKey | None,
    ) -> None:
        """`recorder`: the key of the witness's log, where it is known."""
        self._archive = archive
        self._manifest = manifest
        self._log = log
        self._key = key
        self._witness = witness
        self._recorder = recorder
        self._checkpoint: Checkpoint | None = None
        self._cosigned_at: int | None = None
        self._others = Findings()
        self._foreign = self._open_foreign(brought)
        sizes = {log.size} | {checkpoint.size for _, checkpoint in self._foreign}
        self.walk = Walk(manifest, log, sizes, probes, index)

    def steps(self, number: int) -> list[Step]:
        """Check everything; steps are numbered `number`.1 and so on."""
        checks = [
            self._check_signed,
            self._check_witnessed,
            self._check_tree,
            self._check_records,
            self._check_history,
            self._check_range,
            self._check_recorded,
            self._check_reviews,
        ]
        return [check(f"{number}.{place}") for place, check in enumerate(checks, 1)]

    @property
    def origin(self) -> str:
        """Of the log."""
        return self._log.origin

    @property
    def head(self) -> Checkpoint | None:
        """The checkpoint that its key signed, after `steps`."""
        return self._checkpoint

    @property
    def _empty(self) -> bool:
        """No leaf ever arrived."""
        return self._log.size == 0 and self._log.uploaded == 0

    def _title(self, text: str) -> str:
        return f"{self._log.origin}: {text}"

    def _open_foreign(self, brought: Sequence[Foreign]) -> list[tuple[str, Checkpoint]]:
        opened = []
        for name in self._archive.under(f"{self._log.place}/seen/"):
            try:
                note = self._archive.read(name, MAX_SMALL)
                opened.append((name, open_checkpoint(note, self._key)))
            except (EvidenceError, NoteError) as error:
                self._others.add(Verdict.INVALID, f"{name}: {error}")
        for foreign in brought:
            try:
                checkpoint = open_checkpoint(foreign.note, self._key)
                self._check_withheld(foreign, checkpoint)
                opened.append((foreign.source, checkpoint))
            except NoteError as error:
                self._others.add(Verdict.INVALID, f"{foreign.source}: {error}")
        return opened

    def _check_withheld(self, foreign: Foreign, checkpoint: Checkpoint) -> None:
        """What the witness had seen before the bundle was written must be in it."""
        if checkpoint.size <= self._log.size:
            return
        try:
            (cosigned,) = open_note(foreign.note, [self._witness]).verified
        except NoteError:
            return  # not cosigned: the coordinator need not have known of it
        when = cosigned.timestamp or 0
        if when <= self._manifest.created_ns // 10**9:
            self._others.add(
                Verdict.INCOMPLETE,
                f"{foreign.source}: the witness saw size {checkpoint.size} at {second(when)}, "
                f"before this bundle of size {self._log.size} was written",
            )

    def _check_signed(self, number: str) -> Step:
        found = Findings()
        name = f"{self._log.place}/checkpoint"
        detail = "no leaf yet, so no checkpoint"
        try:
            data = self._archive.read(name, MAX_SMALL)
            if data:
                signed = open_signed(data, self._key)
                checkpoint = signed.checkpoint
                if checkpoint.size != self._log.size:
                    raise EvidenceError(
                        f"size {checkpoint.size} where the manifest says {self._log.size}"
                    )
                self._checkpoint = checkpoint
                term = f", in term {signed.certificate.term}" if signed.certificate else ""
                detail = f"{checkpoint.size} leaves, signed by {self._key.vkey}{term}"
            elif self._log.size:
                raise EvidenceError("empty, yet the manifest gives it a size")
            elif not self._empty:
                found.add(Verdict.UNANCHORED, "no checkpoint: nothing vouches for these leaves")
        except (EvidenceError, NoteError) as error:
            found.add(Verdict.INVALID, f"{name}: {error}")
        return found.step(number, self._title("the checkpoint is signed by the log's key"), detail)

    def _check_witnessed(self, number: str) -> Step:
        found = Findings()
        title = self._title(f"the checkpoint is cosigned by witness {self._witness.name}")
        if self._checkpoint is None:
            if not self._empty:
                found.add(Verdict.UNANCHORED, "no signed checkpoint to cosign")
            return found.step(number, title, "no leaf yet, so no cosignature")
        detail, notes = "", []
        name = f"{self._log.place}/checkpoint"
        data = self._archive.read(name, MAX_SMALL)
        try:
            opened = open_note(data, [self._key, self._witness])
            for signature in opened.verified:
                if signature.timestamp is not None:
                    self._cosigned_at = signature.timestamp
                    detail = f"at {second(self._cosigned_at)}"
            if opened.unverified:
                notes.append(f"{len(opened.unverified)} signatures by keys that are not known here")
        except NoteError as error:
            found.add(Verdict.INVALID, f"{name}: {error}")
        if not detail and not found.count:
            if self._log.agent:
                found.add(Verdict.UNANCHORED, f"{name}: no cosignature by {self._witness.vkey}")
            detail = "not cosigned, and it needs not: the witness's own operator keeps this log"
        return found.step(number, title, detail, notes)

    def _check_recorded(self, number: str) -> Step:
        found, notes = Findings(), []
        title = self._title("the cosignature is on record in the witness's log")
        if self._recorder is None or not self._log.agent:
            if self._log.agent:
                notes.append("the operators' log is not here, whose key says which log that is")
        elif self._checkpoint is not None and self._cosigned_at is not None:
            self._hold_recorded(self._checkpoint, self._cosigned_at, self._recorder, found)
        detail = "given openly" if not notes and self._cosigned_at is not None else ""
        return found.step(number, title, detail, notes)

    def _check_reviews(self, number: str) -> Step:
        reviews, notes = self.walk.reviews, []
        if reviews.beyond:
            notes.append(
                f"{reviews.beyond} acts rest on records that are not here, but in the tree"
            )
        return reviews.found.step(
            number,
            self._title("every reviewer's act is signed over what was shown"),
            f"{reviews.acts} acts",
            notes,
        )

    def _hold_recorded(
        self, head: Checkpoint, cosigned_at: int, key: VerifyKey, found: Findings
    ) -> None:
        name = self._log.proof_file
        if name not in self._archive.names:
            found.add(
                Verdict.UNANCHORED,
                f"{name}: missing: nothing shows that it was not given in secret",
            )
            return
        try:
            check_recorded(self._archive.read(name, MAX_PROOF_FILE), head, cosigned_at, key)
        except EvidenceError as error:
            found.add(Verdict.UNANCHORED, f"{name}: {error}: the cosignature was given in secret")

    def _check_tree(self, number: str) -> Step:
        self.walk.run(self._archive)
        found, log = self.walk.tree, self._log
        if self.walk.size != log.size:
            found.add(
                Verdict.INVALID,
                f"{log.place}/hashes: {self.walk.size} hashes where the manifest says {log.size}",
            )
        elif self._checkpoint and self.walk.roots.get(log.size) != self._checkpoint.root:
            found.add(
                Verdict.INVALID,
                f"{log.place}/hashes: their root is not the one in the checkpoint",
            )
        detail = f"{log.size} leaf hashes make the signed root"
        return found.step(number, self._title("the leaf hashes make the signed root"), detail)

    def _check_records(self, number: str) -> Step:
        walk = self.walk
        notes = walk.notes()
        if self._cosigned_at and walk.newest_ns // 10**9 > self._cosigned_at + _CLOCK_SLACK:
            notes.append("the agent's clock runs ahead of the witness's")
        return walk.records.step(
            number,
            self._title("every record is canonical, in the tree, and chained"),
            walk.summary(),
            notes,
        )

    def _check_history(self, number: str) -> Step:
        found, log, notes = self._others, self._log, []
        roots: dict[int, tuple[str, bytes]] = {}
        if self._checkpoint is not None:
            roots[log.size] = (f"{log.place}/checkpoint", self._checkpoint.root)
        sound = self._checkpoint is not None and self.walk.tree.count == 0
        for source, checkpoint in self._foreign:
            if sound and checkpoint.size in self.walk.roots:
                roots.setdefault(checkpoint.size, ("the tree", self.walk.roots[checkpoint.size]))
            elif checkpoint.size > log.size:
                notes.append(f"{source} reaches to size {checkpoint.size}, beyond this bundle")
            other, root = roots.setdefault(checkpoint.size, (source, checkpoint.root))
            if root != checkpoint.root:
                found.add(
                    Verdict.DIVERGED,
                    f"{source}: the log's key signed another root at size {checkpoint.size} "
                    f"than that of {other}",
                )
        count = len(self._foreign)
        detail = f"{count} further signed checkpoints agree" if count else "no other checkpoint"
        return found.step(number, self._title("the log's key signed one history"), detail, notes)

    def _check_range(self, number: str) -> Step:
        found, log, walk, notes = Findings(), self._log, self.walk, []
        if walk.tally.partial and walk.tally.missing_count:
            notes.append(
                f"{walk.tally.missing_count} records of the range were not asked for; that none of "
                "those that were is among them is the word of whoever wrote the bundle"
            )
        for first, last in walk.tally.missing:
            found.add(
                Verdict.INCOMPLETE,
                f"seq {first}" + (f" to {last}" if last != first else "") + " of the range missing",
            )
        edges = {0} if log.size else set()
        edges |= {1} if log.epoch > 1 and log.size > 1 else set()
        edges |= {log.first - 1} if log.first else set()
        edges |= {log.end} if log.end < log.size else set()
        for seq in sorted(edges - walk.seen):
            found.add(Verdict.INCOMPLETE, f"seq {seq} missing: it bounds the range")
        for seq in walk.cut:
            found.add(Verdict.INCOMPLETE, f"seq {seq} is dated in the range but was left out of it")
        if walk.tail:
            found.add(
                Verdict.INCOMPLETE,
                f"{walk.tail} records lie beyond the cosigned checkpoint of size {log.size}",
            )
        elif log.uploaded > log.size:
            more = f"{log.uploaded - log.size} leaves came after the cosigned checkpoint"
            if self._manifest.time_to and log.end >= log.size and log.size:
                found.add(Verdict.INCOMPLETE, f"{more}; some may lie in the range: pull again")
            elif log.size:
                notes.append(f"{more} and are not part of this bundle")
        detail = f"seq {log.first} to {log.end - 1}" if log.end > log.first else "no record"
        return found.step(number, self._title("no record of the range is missing"), detail, notes)
