"""A stranger's verifier of audit bundles: docs/audit-format.md, section 5.

report.html is taken as it lies there: the page says what it is made of, and not of which bytes, so
only its digest is held. Zips with 64-bit sizes are refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from stranger.archive import read_zip
from stranger.listings import index, listings
from stranger.logs import Findings, LogRead, read_log
from stranger.manifest import (
    Manifest,
    check_files,
    check_keys,
    check_registrations,
    check_statement,
    check_sums,
    parse_manifest,
)
from stranger.notes import Checkpoint, Vkey, cosigned, parse_checkpoint
from stranger.proofs import open_disclosures
from stranger.whole import check_agents, check_epochs, completeness
from stranger.wire import Refused

EXITS = {"INVALID": 1, "DIVERGED": 3, "UNANCHORED": 4, "INCOMPLETE": 5, "WITNESSED": 0}


@dataclass
class Report:
    """The verdict, and why."""

    found: Findings = field(default_factory=list)
    logs: list[LogRead] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """Of several, the first in the page's order."""
        given = {verdict for verdict, _ in self.found} | {"WITNESSED"}
        return next(verdict for verdict in EXITS if verdict in given)

    @property
    def exit_code(self) -> int:
        """The exit code of the verdict."""
        return EXITS[self.verdict]


@dataclass(frozen=True)
class Brought:
    """What the auditor has from elsewhere."""

    witness: Vkey | None = None
    log_keys: Sequence[Vkey] = ()
    checkpoints: Sequence[bytes] = ()
    disclosures: Sequence[bytes] = ()


def _made(files: dict[str, bytes], logs: Sequence[LogRead], manifest: Manifest) -> None:
    made = {"completeness.json": completeness(logs, manifest)}
    made |= {"index.csv": index(logs), "listings.json": listings(logs)}
    for name, data in made.items():
        if files.get(name, data) != data:
            raise Refused(f"{name} does not say what the records show")


def _further(
    points: Sequence[Checkpoint], logs: Sequence[LogRead], manifest: Manifest, found: Findings
) -> None:
    """A brought checkpoint that was cosigned before, and that the bundle does not reach."""
    sizes = {log.entry.origin: log.entry.size for log in logs}
    for point in points:
        moment = cosigned(point, manifest.witness)
        before = moment is not None and moment * 10**9 <= manifest.created
        if point.origin not in sizes or (before and point.size > sizes[point.origin]):
            found.append(("INCOMPLETE", f"{point.origin}: the bundle does not reach so far"))


def _verify(data: bytes, brought: Brought, report: Report) -> None:
    files = read_zip(data)
    check_sums(files)
    manifest = parse_manifest(files.get("manifest.json", b""))
    check_files(files, manifest)
    check_keys(files, manifest, brought.log_keys)
    manifest = replace(manifest, witness=brought.witness or manifest.witness)
    check_statement(files, manifest)
    points = [parse_checkpoint(note) for note in brought.checkpoints]
    for entry in manifest.logs:
        report.logs.append(read_log(entry, files, manifest, points, report.found))
    check_epochs(report.logs, manifest, report.found)
    check_registrations(files, manifest)
    check_agents(manifest, report.found)
    _made(files, report.logs, manifest)
    _further(points, report.logs, manifest, report.found)
    hashes = {log.entry.origin: log.hashes for log in report.logs}
    for disclosure in brought.disclosures:
        open_disclosures(disclosure, lambda origin: hashes.get(origin, []))


def verify(data: bytes, brought: Brought | None = None) -> Report:
    """Read a bundle."""
    report = Report()
    try:
        _verify(data, brought or Brought(), report)
    except Refused as error:
        report.found.append(("INVALID", str(error)))
    return report
