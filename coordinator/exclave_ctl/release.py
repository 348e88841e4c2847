"""From packs and model files to a drafted release: checked, hashed, ready to be signed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from exclave_ctl import files
from exclave_ctl.errors import CtlError
from exclave_ctl.fit import check_fit
from exclave_ctl.packages import PackagePlan, with_packages, without_packages
from exclave_ctl.workspace import Workspace
from exclave_protocol.endpoint import MAX_ENDPOINT, Endpoint
from exclave_protocol.errors import ReleaseError
from exclave_protocol.release import (
    CA_BUNDLE_PATH,
    RUNTIMES,
    ArtifactRef,
    ModelEntry,
    Parameter,
    ReleaseManifest,
    digest_of,
    model_path,
    policy_path,
    release_path,
)

if TYPE_CHECKING:
    from tuf.api.metadata import TargetFile, Targets

KEEP: Final = "keep"
"""As a model: those of the release before."""
CUSTOM: Final = "exclave"
"""Our part of a target's `custom` field; signed with the targets metadata."""

_MODEL: Final = re.compile(
    r"(?P<name>[^=]+)=(?P<path>.+?)(?:[:,](?P<options>[a-z][a-z0-9_]*=[^,]*(?:,[^,]*)*))?"
)
_SUFFIXES: Final = {".gguf": "llama", ".onnx": "onnx"}
_INTEGER: Final = re.compile(r"-?[0-9]{1,15}")
MAX_PACK_FILE: Final = 2 << 20


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model named on the command line."""

    name: str
    path: Path
    runtime: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> ModelFile:
        """`name=path[:runtime=llama|onnx|lora|remote][,n_ctx=1024,...]`; the runtime is guessed
        from `.gguf` and `.onnx`. Raises: CtlError."""
        match = _MODEL.fullmatch(text)
        if match is None:
            raise CtlError(
                "--model must be name=path[,runtime=llama|onnx|lora|remote][,parameter=value...]",
                f"or `{KEEP}` for the models of the release before",
            )
        options: dict[str, str] = {}
        for part in (match["options"] or "").split(","):
            key, equals, value = part.partition("=")
            if part and not equals:
                raise CtlError(f"model {match['name']}: option {part!r} lacks a value")
            if part:
                options[key] = value
        path = Path(match["path"])
        runtime = options.pop("runtime", _SUFFIXES.get(path.suffix.lower(), ""))
        if runtime not in RUNTIMES:
            raise CtlError(
                f"model {match['name']}: which runtime?",
                f"add ,runtime={' or ,runtime='.join(RUNTIMES)}",
            )
        if not path.is_file():
            raise CtlError(f"model {match['name']}: no file {path}")
        parameters = {key: _value(value) for key, value in options.items()}
        return cls(match["name"], path, runtime, parameters)


def _value(text: str) -> Parameter:
    if text in ("true", "false"):
        return text == "true"
    return int(text) if _INTEGER.fullmatch(text) else text


@dataclass(frozen=True, slots=True)
class Published:
    """One release in targets metadata."""

    digest: str
    version: int
    minimum_version: int
    created: str
    policy: str
    """SHA-256 hex of the policy pack."""
    models: tuple[ModelEntry, ...]


def releases_in(targets: Targets) -> list[Published]:
    """The releases that targets metadata names, oldest first. Raises: CtlError."""
    found = []
    for path, target in targets.targets.items():
        custom = (target.custom or {}).get(CUSTOM) if isinstance(target.custom, dict) else None
        if isinstance(custom, dict) and custom.get("kind") == "release":
            found.append(_published(path, target, custom))
    return sorted(found, key=lambda release: release.version)


def _published(path: str, target: TargetFile, custom: dict[str, Any]) -> Published:
    try:
        models = tuple(
            ModelEntry(
                name=str(model["name"]),
                runtime=str(model["runtime"]),
                path=str(model["path"]),
                sha256=str(model["sha256"]),
                length=int(model["length"]),
                parameters=dict(model["parameters"]),
            )
            for model in custom["models"]
        )
        return Published(
            digest=target.hashes["sha256"],
            version=int(custom["version"]),
            minimum_version=int(custom["minimum_version"]),
            created=str(custom["created"]),
            policy=str(custom["policy"]),
            models=models,
        )
    except (KeyError, TypeError, ValueError, ReleaseError) as error:
        raise CtlError(f"target {path} describes its release wrongly") from error


def read_packs(paths: Sequence[Path], name: str) -> bytes:
    """The pack's canonical bytes: one pack as it is, several combined under `name`.

    Its policies are compiled and its cases run. Raises: CtlError listing every fault.
    """
    from exclave_policy.compile import compile_pack
    from exclave_policy.errors import PolicyInvalid
    from exclave_policy.pack import combine, encode, load_directory, unpack
    from exclave_policy.workbench.cases import run_cases

    try:
        packs = [
            load_directory(path)
            if path.is_dir()
            else unpack(files.read(path, MAX_PACK_FILE, "policy pack"))
            for path in paths
        ]
        pack = packs[0] if len(packs) == 1 else combine(packs, name)
        compile_pack(pack)
        report = run_cases(pack)
    except PolicyInvalid as error:
        raise CtlError(str(error), "`exclave policy check PACK` shows the same, alone") from error
    if not report.ok:
        lines = "\n".join(f"  {failure}" for failure in report.failures)
        raise CtlError(
            f"{len(report.failures)} of {report.total} policy cases fail:\n{lines}",
            "correct the policy or its cases: `exclave policy test PACK` runs them alone",
        )
    return encode(pack)


@dataclass(frozen=True, slots=True)
class Plan:
    """What `release build` was asked for."""

    packs: tuple[Path, ...]
    models: tuple[ModelFile, ...]
    keep_models: bool
    version: int | None
    """None: one more than the newest."""
    minimum_version: int | None
    """None: that of the newest release."""
    offline_grace: int
    """Seconds."""
    expires: int
    """Seconds from now until the targets metadata expires."""
    ca_bundle: bytes | None
    """The coordinator's CA certificates, PEM, as a target; None: as before."""
    packages: PackagePlan = field(default_factory=PackagePlan)


@dataclass(frozen=True, slots=True)
class Built:
    """A drafted release."""

    digest: str
    manifest: ReleaseManifest
    targets_version: int
    replaced_draft: bool
    """An unpublished targets draft (and its signatures) was thrown away."""


def build(workspace: Workspace, plan: Plan, now: datetime) -> Built:
    """Check, hash and draft; nothing leaves the machine.

    Older targets are kept, as agents may still run them; releases below the security floor
    are not, so that nobody can assign them any more, not even to an agent that never ran a
    release with that floor. Raises: CtlError.
    """
    from exclave_protocol.tufmeta import load_targets, new_targets, to_bytes

    published = workspace.published_targets()
    base = None if published is None else load_targets(published).signed
    known = [] if base is None else releases_in(base)
    newest = known[-1] if known else None
    pack = read_packs(plan.packs, workspace.tenant)
    manifest = _manifest(workspace, plan, newest, pack, now)
    check_fit(workspace, pack, manifest.models)
    if any(release.version >= manifest.version for release in known):
        raise CtlError(f"release version {manifest.version} is not above the newest one")
    data = manifest.encode()
    digest = workspace.add_blob(data)
    workspace.add_blob(pack)

    entries = {} if base is None else _above_floor(base, known, manifest.minimum_version)
    entries |= _entries(manifest, digest, len(data))
    if base is not None:
        entries = without_packages(entries, base)
    entries |= with_packages(workspace, base, plan.packages)
    if plan.ca_bundle is not None:
        entries[CA_BUNDLE_PATH] = _ca_entry(workspace, plan.ca_bundle)
    version = 1 if base is None else base.version + 1
    targets = new_targets(version, entries.values(), now + timedelta(seconds=plan.expires))
    drafts = workspace.drafts
    replaced = drafts.read("targets.json") is not None
    root = workspace.published_root()
    if root is not None:
        drafts.write("trusted-root.json", root)
    drafts.write("policy.json", pack)
    drafts.write("release.json", data)
    drafts.write("targets.json", to_bytes(targets))
    return Built(digest, manifest, version, replaced)


def _above_floor(targets: Targets, known: Sequence[Published], floor: int) -> dict[str, TargetFile]:
    """The targets without releases below `floor` and without what only those named."""
    below = [release for release in known if release.version < floor]
    needed = set().union(*(_files(release) for release in known if release.version >= floor))
    dropped = {path for release in below for path in _files(release)} - needed
    return {path: target for path, target in targets.targets.items() if path not in dropped}


def _files(release: Published) -> set[str]:
    """Paths of everything that a release consists of."""
    models = {model.path for model in release.models}
    return {release_path(release.digest), policy_path(release.policy), *models}


def renew(workspace: Workspace, expires: int, now: datetime) -> int:
    """Draft the same targets with a later expiry; returns their version. Raises: CtlError."""
    base = _published_targets(workspace)
    return _draft_again(workspace, base, base.targets, expires, now)


def repackage(workspace: Workspace, plan: PackagePlan, expires: int, now: datetime) -> int:
    """Draft the published targets with other packages; returns their version.

    The releases among them stay as they are. Raises: CtlError.
    """
    base = _published_targets(workspace)
    entries = without_packages(base.targets, base) | with_packages(workspace, base, plan)
    if entries.keys() == base.targets.keys():
        raise CtlError("these packages are published already", "`exclave release show` lists them")
    return _draft_again(workspace, base, entries, expires, now)


def _published_targets(workspace: Workspace) -> Targets:
    from exclave_protocol.tufmeta import load_targets

    published = workspace.published_targets()
    if published is None:
        raise CtlError("nothing is published yet", "run `exclave release build`")
    return load_targets(published).signed


def _draft_again(
    workspace: Workspace,
    base: Targets,
    entries: Mapping[str, TargetFile],
    expires: int,
    now: datetime,
) -> int:
    from exclave_protocol.tufmeta import new_targets, to_bytes

    later = now + timedelta(seconds=expires)
    targets = new_targets(base.version + 1, entries.values(), later)
    workspace.drafts.drop("release.json", "policy.json")
    workspace.drafts.write("targets.json", to_bytes(targets))
    return base.version + 1


def _manifest(
    workspace: Workspace, plan: Plan, newest: Published | None, pack: bytes, now: datetime
) -> ReleaseManifest:
    models: dict[str, ModelEntry] = {}
    if plan.keep_models:
        if newest is None:
            raise CtlError(
                "there is no release before to keep the models of", "name them: --model name=path"
            )
        models = {model.name: model for model in newest.models}
    for file in plan.models:
        models[file.name] = _hash_model(workspace, file)
    version = plan.version or (1 if newest is None else newest.version + 1)
    floor = plan.minimum_version
    if floor is None:
        floor = 0 if newest is None else newest.minimum_version
    sha256 = digest_of(pack)
    try:
        return ReleaseManifest(
            tenant=workspace.tenant,
            version=version,
            created=now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            minimum_version=floor,
            offline_grace_seconds=plan.offline_grace,
            policy=ArtifactRef(policy_path(sha256), sha256, len(pack)),
            models=tuple(models.values()),
        )
    except ReleaseError as error:
        raise CtlError(error.message) from error


def _hash_model(workspace: Workspace, file: ModelFile) -> ModelEntry:
    if file.runtime == "remote":
        return _endpoint_model(workspace, file)
    if file.runtime == "lora":
        _check_adapter(file)
    with file.path.open("rb") as source:
        digest = hashlib.file_digest(source, "sha256").hexdigest()
        length = source.tell()
    workspace.add_file(digest, file.path)
    try:
        return ModelEntry(
            file.name, file.runtime, model_path(digest), digest, length, file.parameters
        )
    except ReleaseError as error:
        raise CtlError(error.message) from error


def _endpoint_model(workspace: Workspace, file: ModelFile) -> ModelEntry:
    """What is signed is the document's canonical form, whatever form its author gave it."""
    try:
        endpoint = Endpoint.draft(files.read(file.path, MAX_ENDPOINT, "endpoint document"))
        data = endpoint.encode()
        digest = workspace.add_blob(data)
        return ModelEntry(
            file.name, "remote", model_path(digest), digest, len(data), file.parameters
        )
    except ReleaseError as error:
        raise CtlError(
            f"model {file.name}: {error.message}", "docs/remote-models.md has every field"
        ) from error


def _check_adapter(file: ModelFile) -> None:
    with file.path.open("rb") as source:
        if source.read(4) != b"GGUF":
            raise CtlError(
                f"model {file.name}: {file.path} is no GGUF file",
                "llama.cpp's convert_lora_to_gguf.py makes one of an adapter",
            )


def _entries(manifest: ReleaseManifest, digest: str, length: int) -> dict[str, TargetFile]:
    from exclave_protocol.tufmeta import target_file

    description = {
        "kind": "release",
        "version": manifest.version,
        "minimum_version": manifest.minimum_version,
        "created": manifest.created,
        "policy": manifest.policy.sha256,
        "models": [
            {
                "name": model.name,
                "runtime": model.runtime,
                "path": model.path,
                "sha256": model.sha256,
                "length": model.length,
                "parameters": dict(model.parameters),
            }
            for model in manifest.models
        ],
    }
    path = release_path(digest)
    entries = {path: target_file(path, digest, length, {CUSTOM: description})}
    for ref in manifest.targets():
        kind = "policy" if ref.path == manifest.policy.path else "model"
        entries[ref.path] = target_file(ref.path, ref.sha256, ref.length, {CUSTOM: {"kind": kind}})
    return entries


def _ca_entry(workspace: Workspace, pem: bytes) -> TargetFile:
    from exclave_protocol.tufmeta import target_file

    digest = workspace.add_blob(pem)
    return target_file(CA_BUNDLE_PATH, digest, len(pem), {CUSTOM: {"kind": "ca"}})
