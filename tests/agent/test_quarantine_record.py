"""A quarantine is an INCIDENT that names the model, and nothing of the request."""

from __future__ import annotations

import logging

import pytest

from exclave_agent.errors import StorageFull
from exclave_agent.ports import Appended, LeafDraft
from exclave_agent.rooms import record_quarantine
from exclave_agent.runtimes.quarantine import Culprit


class Taken:
    """An audit log that keeps what it is given, or whose disk is full."""

    def __init__(self, *, full: bool = False) -> None:
        self.full = full
        self.drafts: list[LeafDraft] = []

    async def append(self, draft: LeafDraft) -> Appended:
        if self.full:
            raise StorageFull("the disk is full")
        self.drafts.append(draft)
        return Appended(1, 1, bytes(32))


async def test_it_is_an_incident() -> None:
    log = Taken()
    await record_quarantine(log, Culprit("smollm2", "aa" * 32))
    (draft,) = log.drafts
    assert draft.body["code"] == "request_quarantined"
    assert "smollm2" in str(draft.body["detail"])
    assert not draft.private


async def test_a_full_disk_is_logged_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        await record_quarantine(Taken(full=True), Culprit("smollm2", "aa" * 32))
    assert "quarantine not recorded: the disk is full" in caplog.text
