"""Prepare: from a verified manifest and files on disk to what an activation needs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from exclave_agent.ports import ModelSpec
from exclave_agent.releases.fetch import ArtifactStore
from exclave_agent.releases.state import Kept
from exclave_protocol.canonical import encode
from exclave_protocol.release import ArtifactRef, ReleaseManifest


@dataclass(frozen=True, slots=True)
class Prepared:
    """A release whose every byte is verified and on disk."""

    kept: Kept
    manifest: ReleaseManifest
    pack: bytes
    """The policy pack."""
    specs: tuple[ModelSpec, ...]


async def prepare(store: ArtifactStore, kept: Kept, manifest: ReleaseManifest) -> Prepared:
    """Raises: ReleaseRefused when the policy pack on disk is not the signed one."""
    return Prepared(
        kept=kept,
        manifest=manifest,
        pack=await store.read(manifest.policy),
        specs=tuple(
            ModelSpec(
                name=model.name,
                runtime=model.runtime,
                path=store.path(model.sha256),
                sha256=model.sha256,
                parameters=dict(model.parameters),
            )
            for model in manifest.models
        ),
    )


def kept_of(manifest: ReleaseManifest, ref: ArtifactRef, generation: int) -> Kept:
    """What to remember of a release; `ref` is its manifest."""
    models = encode(
        [
            {
                "name": model.name,
                "runtime": model.runtime,
                "sha256": model.sha256,
                "parameters": dict(model.parameters),
            }
            for model in manifest.models
        ]
    )
    return Kept(
        digest=ref.sha256,
        length=ref.length,
        version=manifest.version,
        generation=generation,
        policy_digest=manifest.policy.sha256,
        models_digest=hashlib.sha256(models).hexdigest(),
    )
