"""Hand signed drafts and the files they name to the coordinator; safe to run again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from exclave_ctl.client import Client
from exclave_ctl.errors import CtlError
from exclave_ctl.release import releases_in
from exclave_ctl.sync import Lost, refuse_fork, survey, sync
from exclave_ctl.workspace import RoleState, Workspace
from exclave_protocol.errors import MetadataError

MAX_NAMED: Final = 12
"""Most files that one refusal names."""


@dataclass(frozen=True, slots=True)
class Upload:
    """One file on its way."""

    target: str
    """Its path in the targets metadata."""
    sha256: str
    path: Path
    length: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What publication did."""

    root_version: int
    targets_version: int
    uploaded: int
    published: bool
    """False: everything had been published before, and still was."""


Progress = Callable[[Sequence[Upload]], AbstractContextManager[Callable[[str, int], None]]]
"""Entered with all that will be sent; then told of each chunk: which target, how many bytes."""


def publish(
    client: Client, workspace: Workspace, progress: Progress, say: Callable[[str], None]
) -> Outcome:
    """Publish what is drafted, and again what the coordinator has lost since we saw it there.

    `say` is told what was lost. The signed bytes of a lost publication are offered as they
    were: for agents that is no step back, and the coordinator takes only what is newer to it.
    MUST be safe to repeat after any interruption: what the coordinator already has is
    recognised by its signed bytes and not sent twice.
    Raises: CtlError (signatures missing: who may still sign; files missing; refused).
    """
    drafts = workspace.drafts
    roots, uploaded, published = [], 0, False
    if lost := survey(client, workspace):
        follows = _follows(workspace)
        if not follows:
            refuse_fork(lost, workspace)
        for role, gap in lost.items():
            replaced = follows and role == "targets"
            what = f"{follows}, which follows it" if replaced else f"{gap.seen} again"
            say(f"{gap}: publishing {what}")
        if "targets" in lost:
            _name_left_out(client, workspace, say)
        roots = _lost_roots(workspace, lost.get("root"))
        if not follows:
            uploaded = _offer_again(client, workspace, roots, "targets" in lost, progress)
            roots, published = [], True
    targets = drafts.read("targets.json") or b""
    if (root := drafts.read("root.json")) is not None:
        roots.append(root)
    if roots or targets:
        _refuse_stale(workspace)
        require_complete(drafts.states(), workspace.folder)
        uploaded += _offer(client, workspace, roots, targets, progress)
        published = True
    elif not published:
        # What was damaged at the coordinator is brought back all the same.
        uploaded = _upload(client, workspace, workspace.published_targets() or b"", progress)
    tenant = client.tenant(workspace.tenant)
    return Outcome(tenant.root_version, tenant.targets_version, uploaded, published)


def _lost_roots(workspace: Workspace, lost: Lost | None) -> list[bytes]:
    versions = range(lost.there + 1, lost.seen + 1) if lost is not None else ()
    return [workspace.seen_root(version) for version in versions]


def _name_left_out(client: Client, workspace: Workspace, say: Callable[[str], None]) -> None:
    """Say which releases were published since the loss: the newer targets do not name them.

    The coordinator's targets are not verified; they are only talked about.
    """
    from exclave_protocol.tufmeta import load_targets

    theirs = client.metadata(workspace.tenant, "targets.json")
    ours = workspace.published_targets()
    if theirs is None or ours is None:
        return
    seen = releases_in(load_targets(ours).signed)
    known = {release.digest for release in seen}
    floor = max((release.minimum_version for release in seen), default=0)
    for release in releases_in(load_targets(theirs).signed):
        if release.digest not in known and release.version >= floor:
            say(
                f"release {release.version} ({release.digest}) is at the coordinator alone: "
                "build it again, or agents can no longer run it"
            )


def _offer_again(
    client: Client, workspace: Workspace, roots: list[bytes], targets: bool, progress: Progress
) -> int:
    seen = workspace.published_targets() if targets else None
    try:
        return _offer(client, workspace, roots, seen or b"", progress)
    except CtlError as error:
        if error.code != "INVALID_ARGUMENT":
            raise
        raise CtlError(
            error.message,
            f"if it has expired meanwhile: `exclave release renew {workspace.folder} --offline` "
            "drafts what follows it; have that signed and publish",
            code=error.code,
        ) from error


def _offer(
    client: Client, workspace: Workspace, roots: list[bytes], targets: bytes, progress: Progress
) -> int:
    """Upload what is missing, publish, take in what agents will read; returns the uploads."""
    uploaded = _upload(client, workspace, targets, progress)
    client.publish(workspace.tenant, roots, targets)
    # Only what can be read back counts as published.
    sync(client, workspace)
    return uploaded


def _upload(client: Client, workspace: Workspace, targets: bytes, progress: Progress) -> int:
    uploads = plan_uploads(client, workspace, targets)
    with progress(uploads) as moved:
        for upload in uploads:
            told = partial(moved, upload.target)
            client.upload(workspace.tenant, upload.sha256, upload.path, told)
    return len(uploads)


def _follows(workspace: Workspace) -> int | None:
    """The version of a draft that is signed and newer than what was seen.

    It goes out in the place of lost targets: it was built on them, and they could not go out if
    they have expired meanwhile.
    """
    from exclave_protocol.tufmeta import load_targets

    draft, seen = workspace.drafts.targets(), workspace.published_targets()
    if draft is None or not all(role.state.complete for role in workspace.drafts.states()):
        return None
    newest = 0 if seen is None else load_targets(seen).signed.version
    return draft.signed.version if draft.signed.version > newest else None


def _refuse_stale(workspace: Workspace) -> None:
    """Refuse a targets draft that was built before someone else's publication."""
    from exclave_protocol.tufmeta import load_targets

    draft, known = workspace.drafts.targets(), workspace.published_targets()
    if draft is None or known is None:
        return
    newest = load_targets(known).signed.version
    if draft.signed.version <= newest:
        raise CtlError(
            f"targets version {newest} was published since this release was built",
            "run `exclave release build` again: the draft must follow it",
        )


def require_complete(states: Sequence[RoleState], folder: Path) -> None:
    """Raises CtlError saying how many signatures each role lacks, and whose could fill in."""
    lacking = [state for state in states if not state.state.complete]
    if not lacking:
        return
    raise CtlError(
        "signatures are missing: " + "; ".join(describe(state) for state in lacking),
        f"run `exclave release sign {folder} --key FILE` where one of these keys is kept",
    )


def describe(role: RoleState) -> str:
    """`root version 1 has 1 of 2 signatures, 1 missing; may still sign: bob (6f81...)`."""
    state = role.state
    text = f"{role.role} version {role.version} has {state.have} of {state.need} signatures"
    if state.complete:
        return text
    return f"{text}, {state.missing} missing; may still sign: {', '.join(role.missing_owners)}"


def plan_uploads(client: Client, workspace: Workspace, targets: bytes) -> list[Upload]:
    """The files that the coordinator lacks, found on this machine. Raises: CtlError."""
    from exclave_protocol.tufmeta import load_targets

    if not targets:
        return []
    try:
        named = load_targets(targets).signed.targets
    except MetadataError as error:
        raise CtlError(error.message) from error
    by_digest = {
        target.hashes["sha256"]: (path, target.length)
        for path, target in named.items()
        if "sha256" in target.hashes
    }
    uploads, gone = [], []
    for digest in sorted(client.missing_targets(workspace.tenant, sorted(by_digest))):
        if digest not in by_digest:
            raise CtlError("the coordinator asks for a file that this release does not name")
        target, length = by_digest[digest]
        path = workspace.find(digest)
        if path is None or path.stat().st_size != length:
            was = workspace.place(digest)
            gone.append(target if was is None else f"{target} (was {was})")
        else:
            uploads.append(Upload(target, digest, path, length))
    if gone:
        more = f" and {len(gone) - MAX_NAMED} more" if len(gone) > MAX_NAMED else ""
        raise CtlError(
            f"{len(gone)} files are neither at the coordinator nor here: "
            f"{', '.join(gone[:MAX_NAMED])}{more}",
            "publish from the machine where the release was built, with its model files in place",
        )
    return uploads
