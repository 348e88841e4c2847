"""How drafts and published releases are shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exclave_ctl import output
from exclave_ctl.errors import CtlError

if TYPE_CHECKING:
    from tuf.api.metadata import Root, Targets

    from exclave_ctl.release import Published
    from exclave_ctl.workspace import Drafts, RoleState
    from exclave_protocol.packages import Package
    from exclave_protocol.release import ReleaseManifest


def manifest(value: ReleaseManifest, digest: str) -> None:
    """A release's content."""
    click.echo(f"release {value.version} of {value.tenant}  {digest}")
    floor = f", minimum version {value.minimum_version}" if value.minimum_version else ""
    click.echo(f"  offline grace {output.span(value.offline_grace_seconds)}{floor}")
    click.echo(f"  policy  {value.policy.sha256}")
    for model in value.models:
        options = "".join(f" {key}={value}" for key, value in model.parameters.items())
        click.echo(f"  model   {model.sha256}  {model.name} ({model.runtime}{options})")


def drafts(folder: Drafts) -> None:
    """What a signer is about to sign, on stderr.

    The manifest beside the targets draft is shown only if the draft names its digest: a signer
    must not be shown one thing and sign another. Raises: CtlError.
    """
    from exclave_ctl.packages import lines, packages_of

    root, targets = folder.root(), folder.targets()
    if root is not None:
        for line in _root_lines(root.signed):
            output.note(line)
    if targets is not None:
        signed = targets.signed
        expires = signed.expires.strftime("%Y-%m-%d")
        output.note(
            f"targets version {signed.version}: {len(signed.targets)} files, expires {expires}"
        )
        added = drafted_release(folder, signed)
        if added is not None:
            digest, value = added
            output.note(f"adds release {value.version} ({digest}):")
            output.note(f"  policy {value.policy.sha256}")
            for model in value.models:
                output.note(f"  model  {model.sha256} {model.name}")
        for release in _all_releases(folder, signed):
            if added is None or release.digest != added[0]:
                output.note(f"also lets release {release.version} run ({release.digest})")
        for line in lines(packages_of(signed)):
            output.note(f"lets agents install, as root, {line}")


def _all_releases(folder: Drafts, targets: Targets) -> list[Published]:
    """Every release that a signature on these targets allows. Raises: CtlError."""
    from exclave_ctl.release import releases_in
    from exclave_protocol.release import release_path

    found = releases_in(targets)
    described = {release_path(release.digest) for release in found}
    for path in targets.targets:
        if path.startswith("releases/") and path not in described:
            raise CtlError(
                f"the targets draft in {folder.folder} names {path} without describing it",
                "do not sign: get the drafts again from where they were built",
            )
    return found


def drafted_release(folder: Drafts, targets: Targets) -> tuple[str, ReleaseManifest] | None:
    """The release that a draft adds, checked against the draft. Raises: CtlError."""
    from exclave_protocol.release import ReleaseManifest, digest_of, release_path

    data = folder.read("release.json")
    if data is None:
        return None
    digest = digest_of(data)
    target = targets.targets.get(release_path(digest))
    if target is None or target.hashes.get("sha256") != digest:
        raise CtlError(
            f"{folder.folder}/release.json is not the release that the targets draft names",
            "do not sign: get the drafts again from where they were built",
        )
    return digest, ReleaseManifest.decode(data)


def _root_lines(root: Root) -> list[str]:
    from exclave_ctl.keys import owner

    role = root.roles["root"]
    owners = ", ".join(owner(root.keys[keyid]) for keyid in role.keyids)
    return [
        f"root version {root.version}: {role.threshold} of {len(role.keyids)} keys must sign, "
        f"expires {root.expires:%Y-%m-%d}",
        f"  keys: {owners}",
    ]


def show_workspace(path: Path, as_json: bool) -> None:
    """`release show WORKSPACE`. Raises: CtlError."""
    from exclave_ctl.packages import packages_of
    from exclave_ctl.publish import describe
    from exclave_ctl.workspace import Drafts, Workspace

    if (path / "tenant.json").exists():
        workspace = Workspace.load(path)
        folder, root, targets = (
            workspace.drafts,
            workspace.published_root(),
            workspace.published_targets(),
        )
    else:
        folder, root, targets = Drafts.find(path), None, None
    states = folder.states()
    draft = folder.targets()
    added = None if draft is None else drafted_release(folder, draft.signed)
    if as_json:
        value: dict[str, Any] = {
            "drafts": [_state(state) for state in states],
            "packages": drafted(folder),
        }
        if added is not None:
            value["release"] = {"digest": added[0], "version": added[1].version}
        if root is not None:
            value["published"] = _published(root, targets)
        output.emit(value)
        return
    if root is not None:
        _print_published(root, targets)
    if not states:
        click.echo("no drafts")
    for state in states:
        click.echo(f"draft: {describe(state)}")
    if added is not None:
        manifest(added[1], added[0])
    if draft is not None:
        _package_table([_package(p) for p in packages_of(draft.signed)])


def drafted(folder: Drafts) -> list[dict[str, Any]]:
    """The packages of the targets draft, for programs. Raises: CtlError."""
    from exclave_ctl.packages import packages_of

    draft = folder.targets()
    return [] if draft is None else [_package(p) for p in packages_of(draft.signed)]


def _package(package: Package) -> dict[str, Any]:
    label = package.label
    return {
        "name": label.name,
        "version": label.version,
        "format": label.format,
        "architecture": label.architecture,
        "sha256": package.sha256,
        "length": package.length,
    }


def _package_table(packages: list[dict[str, Any]]) -> None:
    output.table(
        ("PACKAGE", "VERSION", "FORMAT", "ARCHITECTURE", "SHA256"),
        [
            tuple(p[key] for key in ("name", "version", "format", "architecture", "sha256"))
            for p in packages
        ],
        "",
    )


def show_published(tenant: str, root: bytes, targets: bytes | None, as_json: bool) -> None:
    """`release show --published`. Raises: CtlError, MetadataError."""
    if as_json:
        output.emit({"tenant": tenant} | _published(root, targets))
        return
    _print_published(root, targets)


def _print_published(root: bytes, targets: bytes | None) -> None:
    from exclave_protocol.tufmeta import load_root

    for line in _root_lines(load_root(root).signed):
        click.echo(line)
    value = _published(root, targets)
    click.echo(f"targets version {value['targets_version']}, expires {value['targets_expires']}")
    output.table(
        ("VERSION", "RELEASE", "CREATED", "MODELS"),
        [
            (r["version"], r["digest"], r["created"], ", ".join(r["models"]))
            for r in value["releases"]
        ],
        "no releases",
    )
    _package_table(value["packages"])


def _published(root: bytes, targets: bytes | None) -> dict[str, Any]:
    from exclave_ctl.packages import packages_of
    from exclave_ctl.release import releases_in
    from exclave_protocol.tufmeta import load_root, load_targets, root_pin

    head = load_root(root).signed
    value: dict[str, Any] = {
        "root_version": head.version,
        "root_expires": f"{head.expires:%Y-%m-%dT%H:%M:%SZ}",
        "threshold": head.roles["root"].threshold,
        "keyids": head.roles["root"].keyids,
        "targets_version": 0,
        "targets_expires": "",
        "releases": [],
        "packages": [],
    }
    if head.version == 1:
        value["root_pin"] = root_pin(root)
    if targets is not None:
        signed = load_targets(targets).signed
        value["targets_version"] = signed.version
        value["targets_expires"] = f"{signed.expires:%Y-%m-%dT%H:%M:%SZ}"
        value["releases"] = [
            {
                "version": r.version,
                "digest": r.digest,
                "created": r.created,
                "minimum_version": r.minimum_version,
                "policy": r.policy,
                "models": {model.name: model.sha256 for model in r.models},
            }
            for r in releases_in(signed)
        ]
        value["packages"] = [_package(p) for p in packages_of(signed)]
    return value


def _state(role: RoleState) -> dict[str, Any]:
    return {
        "role": role.role,
        "version": role.version,
        "have": role.state.have,
        "need": role.state.need,
        "missing": role.state.missing,
        "signed_keyids": list(role.state.signed_keyids),
        "missing_keyids": list(role.state.missing_keyids),
    }
