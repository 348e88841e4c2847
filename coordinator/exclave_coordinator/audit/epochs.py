"""Epochs: a log that cannot go on ends where it was cosigned last; an operator opens the next."""

from __future__ import annotations

from collections.abc import Sequence

from exclave_coordinator.errors import Fenced, Invalid, NotFound, Precondition
from exclave_coordinator.ports import AgentKey, Log, Tx
from exclave_coordinator.term_ports import Opening
from exclave_protocol.checkpoint import Checkpoint
from exclave_protocol.epoch import links
from exclave_protocol.leaf import Leaf
from exclave_protocol.tree import Frontier


def reopen(tx: Tx, key: AgentKey, at: int) -> int:
    """Let an agent begin the epoch after its newest; returns which. Idempotent until it has begun.

    Raises: NotFound, Precondition ("no_epoch").
    """
    if tx.agents.get(key) is None:
        raise NotFound("no agent of this name in this tenant")
    begun = tx.terms.epochs(key)
    if not begun:
        raise Precondition(
            "the agent's log has not begun: there is nothing to end", code="no_epoch"
        )
    tx.terms.open(key, Opening(begun[-1] + 1, at))
    return begun[-1] + 1


def check_epoch(tx: Tx, key: AgentKey, epoch: int) -> None:
    """Whether an agent may write in this epoch.

    Raises: Fenced (a later one has begun), Precondition ("epoch_not_open").
    """
    begun = tx.terms.epochs(key)
    newest = begun[-1] if begun else 0
    if epoch < newest:
        log = tx.logs.get(key, newest)
        term = tx.terms.get(log.id) if log is not None else None
        raise Fenced(
            f"epoch: {epoch} ended when epoch {newest} began",
            note=term.note if term is not None else b"",
        )
    if epoch == newest:
        return
    opened = tx.terms.opening(key)
    if epoch != newest + 1 or epoch > (opened.epoch if opened is not None else 1):
        raise Precondition(
            f"epoch: {epoch} was not opened: an operator does it (exclave agent reopen)",
            code="epoch_not_open",
        )


def newest_open(tx: Tx, key: AgentKey) -> int:
    """The newest epoch that may begin, or has."""
    opened = tx.terms.opening(key)
    return max([1, opened.epoch if opened is not None else 1, *tx.terms.epochs(key)])


def check_link(tx: Tx, log: Log, leaves: Sequence[Leaf]) -> None:
    """A new epoch's seq 1 must link the cosigned head with which the one before ended.

    Raises: Invalid.
    """
    linking = next((leaf for leaf in leaves if leaf.seq == 1), None)
    before = tx.logs.get(log.key, log.epoch - 1)
    if linking is None or before is None:
        return
    former = linking.log.removesuffix(f"e{log.epoch}") + f"e{before.epoch}"
    if fault := links(linking, before_head(before, former)):
        raise Invalid(f"leaves: seq 1: {fault}", code="leaf")


def before_head(log: Log, origin: str) -> Checkpoint:
    """The newest cosigned head of a log; of size 0 when there is none."""
    root = Frontier.from_peaks(log.witnessed_size, log.peaks).root()
    return Checkpoint(origin, log.witnessed_size, root)
