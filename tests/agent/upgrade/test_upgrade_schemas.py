"""The way back: the version before must open what a version leaves (docs/upgrade.md)."""

from __future__ import annotations

import pytest

import exclave_agent
from exclave_agent.storage.connect import FileKind
from exclave_agent.storage.migrations import state, vault

RELEASES = ("0.1.0",)
"""Versions of the agent that were published, in order."""
OPENED_BY = {
    ("state.db", 1): ("0.1.0",),
    ("vault.db", 1): ("0.1.0",),
}
"""Which versions open a file of that schema. A new schema MUST name the release before the one
that brings it, and that release's own tests MUST show it."""


@pytest.mark.parametrize("kind", [state.KIND, vault.KIND], ids=lambda kind: kind.name)
def test_the_version_before_opens_what_this_one_leaves(kind: FileKind) -> None:
    version = exclave_agent.__version__
    assert version in RELEASES, "add the new version"
    before = RELEASES[max(0, RELEASES.index(version) - 1)]
    opened_by = OPENED_BY.get((kind.name, kind.version), ())
    assert {before, version} <= set(opened_by), (
        f"{kind.name} has schema {kind.version}, which is not known to be opened by {before}: "
        "an upgrade could not be reverted; see docs/upgrade.md, What the way back needs"
    )
