"""`exclave release`: build, sign, join signatures, publish, show."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from exclave_ctl import output
from exclave_ctl.commands import show_release
from exclave_ctl.context import Session, pass_session, utc_now
from exclave_ctl.errors import CtlError

_workspace = click.argument("workspace", type=click.Path(path_type=Path, exists=True))


@click.group()
def release() -> None:
    """Signed releases: policy and models, named by digest."""


@release.command()
@_workspace
@click.option(
    "--pack",
    "packs",
    type=click.Path(path_type=Path, exists=True),
    multiple=True,
    required=True,
    help="Policy pack: a folder or a packed file; several are combined.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME=PATH[,runtime=llama|onnx|lora|remote][,KEY=VALUE...]",
    help="A model file and its parameters (n_ctx, n_parallel...); a LoRA adapter with `base=`, the "
    "model that it adapts; an endpoint document with `runtime=remote`. `keep`: those of the "
    "newest release.",
)
@click.option(
    "--package",
    "packages",
    multiple=True,
    metavar="FILE|keep",
    help="A .deb or .rpm that agents may upgrade to; the 3 newest of each stay. Default: `keep`, "
    "those of the newest release.",
)
@click.option("--version", type=click.IntRange(1), help="Default: one more than the newest.")
@click.option(
    "--minimum-version",
    type=click.IntRange(0),
    help="Security floor: once this release has run, no lower version may, and lower ones leave "
    "the signed targets. Default: unchanged.",
)
@click.option(
    "--offline-grace",
    type=output.duration,
    default="24h",
    show_default=True,
    help="How long agents may run on without the centre.",
)
@click.option(
    "--expires",
    type=output.duration,
    default="30d",
    show_default=True,
    help="When the signatures lapse; see `release renew`.",
)
@click.option("--offline", is_flag=True, help="Do not ask the coordinator what is published.")
@output.as_json
@pass_session
def build(
    session: Session,
    workspace: Path,
    packs: tuple[Path, ...],
    models: tuple[str, ...],
    packages: tuple[str, ...],
    version: int | None,
    minimum_version: int | None,
    offline_grace: int,
    expires: int,
    offline: bool,
    as_json: bool,
) -> None:
    """Check the policy, hash the models, draft the release. Needs no signing key."""
    from exclave_ctl.packages import PackagePlan
    from exclave_ctl.release import KEEP, ModelFile, Plan
    from exclave_ctl.release import build as draft
    from exclave_ctl.sync import sync
    from exclave_ctl.workspace import Workspace

    opened = Workspace.load(workspace)
    plan = Plan(
        packs=packs,
        models=tuple(ModelFile.parse(text) for text in models if text != KEEP),
        keep_models=KEEP in models,
        version=version,
        minimum_version=minimum_version,
        offline_grace=offline_grace,
        expires=expires,
        ca_bundle=None if session.profile_folder is None else session.profile().ca(),
        packages=PackagePlan(tuple(Path(text) for text in packages if text != KEEP)),
    )
    if not offline:
        with session.connect() as client:
            sync(client, opened)
    built = draft(opened, plan, utc_now())
    if built.replaced_draft:
        output.warn("an unpublished draft was replaced; signatures on it are gone")
    if as_json:
        output.emit(
            {
                "digest": built.digest,
                "version": built.manifest.version,
                "targets_version": built.targets_version,
                "policy": built.manifest.policy.sha256,
                "models": {m.name: m.sha256 for m in built.manifest.models},
            }
        )
        return
    show_release.manifest(built.manifest, built.digest)
    output.note(f"next: exclave release sign {workspace} --key FILE, by each who signs")


@release.command()
@_workspace
@click.option("--key", "key_name", required=True, metavar="FILE|URI", help="Private key or signer.")
@click.option("--pub", type=click.Path(path_type=Path), help="Public key, when --key is a URI.")
@click.option("--passphrase-file", type=click.Path(), help="Take the passphrase from a file.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before signing.")
@output.as_json
def sign(
    workspace: Path,
    key_name: str,
    pub: Path | None,
    passphrase_file: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Sign every draft that names your key and lacks its signature.

    WORKSPACE may be a copy of its drafts folder alone, on a machine without a network.
    """
    from exclave_ctl.keys import load_signer
    from exclave_ctl.publish import describe
    from exclave_ctl.workspace import Drafts

    drafts = Drafts.find(workspace)
    show_release.drafts(drafts)
    if not yes and sys.stdin.isatty():
        click.confirm("Sign this?", abort=True, err=True)
    signer = load_signer(key_name, pub, lambda: output.ask_passphrase(passphrase_file))
    signed = drafts.sign(signer)
    states = drafts.states()
    if as_json:
        output.emit(
            {
                "keyid": signer.public_key.keyid,
                "signed": signed,
                "complete": all(state.state.complete for state in states),
            }
        )
        return
    click.echo(f"signed: {', '.join(signed)}" if signed else "already signed with this key")
    for state in states:
        output.note(describe(state))


@release.command()
@_workspace
@click.argument("copies", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@output.as_json
def merge(workspace: Path, copies: tuple[Path, ...], as_json: bool) -> None:
    """Take over the signatures of other COPIES of the drafts folder."""
    from exclave_ctl.publish import describe
    from exclave_ctl.workspace import Drafts

    drafts = Drafts.find(workspace)
    added = sum(drafts.merge(Drafts.find(copy)) for copy in copies)
    states = drafts.states()
    if as_json:
        output.emit({"added": added, "complete": all(state.state.complete for state in states)})
        return
    click.echo(f"{added} signatures taken over")
    for state in states:
        output.note(describe(state))


@release.command()
@_workspace
@output.as_json
@pass_session
def publish(session: Session, workspace: Path, as_json: bool) -> None:
    """Upload what is missing and publish the signed drafts; safe to repeat.

    A coordinator that was restored from a backup, and lacks what WORKSPACE has seen published,
    is first given that again, as it was signed.

    Fails, naming roles, counts and keys, while signatures are missing.
    Needs role release-manager.
    """
    from exclave_ctl import publish as publishing
    from exclave_ctl.workspace import Workspace

    opened = Workspace.load(workspace)
    with session.connect() as client:
        outcome = publishing.publish(
            client,
            opened,
            lambda uploads: output.transfer(sum(u.length for u in uploads), "uploading"),
            output.note,
        )
    if as_json:
        output.emit(
            {
                "published": outcome.published,
                "root_version": outcome.root_version,
                "targets_version": outcome.targets_version,
                "uploaded": outcome.uploaded,
            }
        )
        return
    if not outcome.published:
        brought = f"; {outcome.uploaded} missing files uploaded" if outcome.uploaded else ""
        click.echo(
            f"nothing to publish: root {outcome.root_version} and targets "
            f"{outcome.targets_version} are published{brought}"
        )
        return
    click.echo(
        f"published root {outcome.root_version} and targets {outcome.targets_version}; "
        f"{outcome.uploaded} files uploaded"
    )
    output.note(f"next: exclave rollout start {opened.tenant} --wait")


@release.command()
@_workspace
@click.option("--expires", type=output.duration, default="30d", show_default=True)
@click.option("--offline", is_flag=True, help="Do not ask the coordinator what is published.")
@output.as_json
@pass_session
def renew(session: Session, workspace: Path, expires: int, offline: bool, as_json: bool) -> None:
    """Draft the published targets again with a later expiry, to be signed and published."""
    from exclave_ctl.release import renew as draft
    from exclave_ctl.sync import sync
    from exclave_ctl.workspace import Workspace

    opened = Workspace.load(workspace)
    if not offline:
        with session.connect() as client:
            sync(client, opened)
    version = draft(opened, expires, utc_now())
    if as_json:
        output.emit({"targets_version": version})
        return
    click.echo(f"drafted targets version {version}")


@release.command()
@_workspace
@click.option(
    "--add",
    "added",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    multiple=True,
    metavar="FILE",
    help="A .deb or .rpm that agents may upgrade to; the 3 newest versions of each stay.",
)
@click.option(
    "--drop", "dropped", multiple=True, metavar="VERSION", help="A version to take out again."
)
@click.option("--expires", type=output.duration, default="30d", show_default=True)
@click.option("--offline", is_flag=True, help="Do not ask the coordinator what is published.")
@output.as_json
@pass_session
def package(
    session: Session,
    workspace: Path,
    added: tuple[Path, ...],
    dropped: tuple[str, ...],
    expires: int,
    offline: bool,
    as_json: bool,
) -> None:
    """Draft the published targets with other packages, to be signed and published.

    Agents upgrade to them with `exclave-agent upgrade`. The releases stay as they are.
    """
    from exclave_ctl.packages import PackagePlan
    from exclave_ctl.release import repackage
    from exclave_ctl.sync import sync
    from exclave_ctl.workspace import Workspace

    if not added and not dropped:
        raise click.UsageError("say what to --add or --drop")
    opened = Workspace.load(workspace)
    if not offline:
        with session.connect() as client:
            sync(client, opened)
    if opened.drafts.read("targets.json") is not None:
        output.warn("an unpublished draft is replaced; signatures on it are gone")
    version = repackage(opened, PackagePlan(added, dropped), expires, utc_now())
    if as_json:
        output.emit({"targets_version": version, "packages": show_release.drafted(opened.drafts)})
        return
    click.echo(f"drafted targets version {version}")
    output.note(f"next: exclave release sign {workspace} --key FILE, by each who signs")


@release.command()
@click.argument("workspace", required=False, type=click.Path(path_type=Path, exists=True))
@click.option("--published", "tenant", metavar="TENANT", help="What the coordinator serves.")
@output.as_json
@pass_session
def show(session: Session, workspace: Path | None, tenant: str | None, as_json: bool) -> None:
    """Show drafts and how far they are signed, or what is published."""
    if (workspace is None) == (tenant is None):
        raise click.UsageError("name a WORKSPACE, or --published TENANT")
    if workspace is not None:
        show_release.show_workspace(workspace, as_json)
        return
    assert tenant is not None
    with session.connect() as client:
        root = client.metadata(tenant, "root.json")
        targets = client.metadata(tenant, "targets.json")
    if root is None:
        raise CtlError(
            f"tenant {tenant} has published nothing yet", "run `exclave release publish`"
        )
    show_release.show_published(tenant, root, targets, as_json)
