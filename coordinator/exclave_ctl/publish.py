"""Hand signed drafts and the files they name to the coordinator; safe to run again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from exclave_ctl.client import Client
from exclave_ctl.errors import CtlError
from exclave_ctl.sync import sync
from exclave_ctl.workspace import RoleState, Workspace
from exclave_protocol.errors import MetadataError


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
    """False: everything had been published before."""


Progress = Callable[[Sequence[Upload]], AbstractContextManager[Callable[[str, int], None]]]
"""Entered with all that will be sent; then told of each chunk: which target, how many bytes."""


def publish(client: Client, workspace: Workspace, progress: Progress) -> Outcome:
    """Publish what is drafted.

    MUST be safe to repeat after any interruption: what the coordinator already has is
    recognised by its signed bytes and not sent twice.
    Raises: CtlError (signatures missing: who may still sign; files missing; refused).
    """
    sync(client, workspace)
    drafts = workspace.drafts
    root, targets = drafts.root(), drafts.targets()
    if root is None and targets is None:
        tenant = client.tenant(workspace.tenant)
        return Outcome(tenant.root_version, tenant.targets_version, 0, published=False)
    _refuse_stale(workspace)
    require_complete(drafts.states(), workspace.folder)
    uploads = plan_uploads(client, workspace)
    with progress(uploads) as moved:
        for upload in uploads:
            told = partial(moved, upload.target)
            client.upload(workspace.tenant, upload.sha256, upload.path, told)
    roots = [data] if (data := drafts.read("root.json")) is not None else []
    done = client.publish(workspace.tenant, roots, drafts.read("targets.json") or b"")
    # Read back what agents will read: only that counts as published.
    sync(client, workspace)
    return Outcome(done.root_version, done.targets_version, len(uploads), published=True)


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


def plan_uploads(client: Client, workspace: Workspace) -> list[Upload]:
    """The files that the coordinator lacks, found on this machine. Raises: CtlError."""
    try:
        targets = workspace.drafts.targets()
    except MetadataError as error:
        raise CtlError(error.message) from error
    if targets is None:
        return []
    by_digest = {
        target.hashes["sha256"]: (path, target.length)
        for path, target in targets.signed.targets.items()
        if "sha256" in target.hashes
    }
    uploads, lost = [], []
    for digest in sorted(client.missing_targets(workspace.tenant, sorted(by_digest))):
        if digest not in by_digest:
            raise CtlError("the coordinator asks for a file that this release does not name")
        target, length = by_digest[digest]
        path = workspace.find(digest)
        if path is None or path.stat().st_size != length:
            lost.append(target)
        else:
            uploads.append(Upload(target, digest, path, length))
    if lost:
        raise CtlError(
            f"{len(lost)} files are neither at the coordinator nor here: {', '.join(lost[:3])}",
            "publish from the machine where the release was built, with its model files in place",
        )
    return uploads
