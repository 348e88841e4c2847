"""The whole room together: desired in, a release answering, the truth reported."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from exclave_agent.errors import NoRelease, StorageFull
from exclave_agent.ports import ModelSpec
from exclave_agent.releases.crashes import CrashLoop, CrashWatch
from exclave_agent.releases.report import Desired, Observed, Phase
from exclave_agent.releases.watch import ReleaseManager
from exclave_agent.slots import Latest
from exclave_policy.pack import Pack, encode
from exclave_protocol.release import release_path
from exclave_testing.audit import FakeAuditLog
from exclave_testing.clock import FakeClock, SeededRng
from exclave_testing.policies import allow, document
from exclave_testing.routing import route_text
from exclave_testing.runtimes import FakeModelSet, FakeRuntimes
from exclave_testing.storage import FakeStateStore
from exclave_testing.tuf_repo import TufRepo, assign, policy_pack


class SomeRuntimes(FakeRuntimes):
    """Also remembers what it was asked to load."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[ModelSpec]] = []

    async def load(self, specs: object) -> FakeModelSet:
        assert isinstance(specs, tuple)
        self.asked.append(list(specs))
        return await super().load(specs)


@dataclass
class World:
    """One agent's releases with everything around them faked; `restart` keeps the disk."""

    home: Path
    repo: TufRepo = field(default_factory=TufRepo)
    clock: FakeClock = field(default_factory=FakeClock)
    state: FakeStateStore = field(default_factory=FakeStateStore)
    audit: FakeAuditLog = field(default_factory=FakeAuditLog)
    runtimes: SomeRuntimes = field(default_factory=SomeRuntimes)

    def __post_init__(self) -> None:
        self.history: list[Observed] = []
        self.manager = self._manager()

    def _manager(self) -> ReleaseManager:
        self.desired, self.observed = Latest[Desired](), Latest[Observed]()
        put = self.observed.put

        def remember(value: Observed) -> None:
            self.history.append(value)
            put(value)

        self.observed.put = remember  # type: ignore[method-assign]  # a spy on the slot
        return ReleaseManager(
            self.home,
            self.repo.scope,
            source=self.repo.source,
            runtimes=self.runtimes,
            audit=self.audit,
            state=self.state,
            clock=self.clock,
            rng=SeededRng(),
            desired=self.desired,
            observed=self.observed,
        )

    async def restart(self) -> None:
        """Another process over the same home."""
        await self.manager.close()
        self.history.clear()
        self.manager = self._manager()
        await self.manager.restore()

    async def want(self, digest: str, generation: int) -> Observed:
        """Desire it, run one cycle, and say what was reported last."""
        self.desired.put(assign(digest, generation))
        await self.manager.reconcile()
        assert self.observed.value is not None
        return self.observed.value

    def answering(self) -> int:
        """Version of the release that answers a request now."""
        with self.manager.releases.lease() as release:
            return release.version

    def leaves(self) -> list[str]:
        return [draft.type for draft in self.audit.drafts]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    await world.manager.restore()
    yield world
    await world.manager.close()


async def test_from_nothing_to_applied(world: World) -> None:
    with pytest.raises(NoRelease):
        world.manager.releases.lease()
    digest = world.repo.release()
    observed = await world.want(digest, 1)
    assert [o.phase for o in world.history] == [
        Phase.EMPTY,
        Phase.VERIFYING,
        Phase.FETCHING,
        Phase.ACTIVATING,
        Phase.APPLIED,
    ]
    assert (observed.generation, observed.release_digest) == (1, digest)
    with world.manager.releases.lease() as release:
        assert (release.version, release.generation, release.digest) == (1, 1, digest)
        assert set(release.models.models()) == {"m"}
    assert world.leaves() == ["POLICY_CHANGE", "MODEL_CHANGE"]
    assert world.audit.drafts[0].body == {
        "from": None,
        "to": release.policy_digest,
        "release": digest,
        "generation": "1",
    }
    status = world.manager.status()
    assert (status.phase, status.version, status.generation_seen) == (Phase.APPLIED, 1, 1)


async def test_a_tenant_without_a_release_is_no_fault(world: World) -> None:
    world.repo.source.files.clear()
    await world.manager.reconcile()
    assert [o.phase for o in world.history] == [Phase.EMPTY]


async def test_a_root_that_is_not_ours_is_reported_though_nothing_is_desired(
    world: World,
) -> None:
    world.repo.source.files = TufRepo(("eve", "mal", "oz")).source.files
    await world.manager.reconcile()
    assert world.history[-1].error_code == "root_mismatch"


async def test_a_push_is_acted_on_without_waiting_for_the_interval(world: World) -> None:
    digest = world.repo.release()
    run = asyncio.create_task(world.manager.run())
    await world.clock.until_sleepers(1)
    world.desired.put(assign(digest))
    await _until(lambda: _phase(world) is Phase.APPLIED)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert world.clock.now_ns() == FakeClock().now_ns()


async def test_metadata_is_read_again_without_a_push(world: World) -> None:
    digest = world.repo.release()
    await world.want(digest, 1)
    run = asyncio.create_task(world.manager.run())
    asked = len(world.repo.source.asked)
    await _until(lambda: len(world.repo.source.asked) > asked and world.clock.sleepers > 0)
    asked = len(world.repo.source.asked)
    await world.clock.advance(331)
    await _until(lambda: len(world.repo.source.asked) > asked)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run


async def test_a_policy_push_does_not_reload_models(world: World) -> None:
    await world.want(world.repo.release(), 1)
    first = world.runtimes.loaded[0]
    observed = await world.want(world.repo.release(policy=policy_pack("other")), 2)
    assert observed.phase is Phase.APPLIED
    assert len(world.runtimes.loaded) == 1
    assert not first.closed
    assert world.leaves() == ["POLICY_CHANGE", "MODEL_CHANGE", "POLICY_CHANGE"]
    with world.manager.releases.lease() as release:
        assert [rule.id for rule in release.policy.rules] == ["other"]


async def test_new_models_replace_old_ones_which_close_after_their_leases(world: World) -> None:
    await world.want(world.repo.release(models={"m": b"one"}), 1)
    old = world.runtimes.loaded[0]
    reaper = asyncio.create_task(world.manager.releases.reap())
    with world.manager.releases.lease() as before:
        await world.want(world.repo.release(models={"m": b"two"}), 2)
        assert world.answering() == 2
        assert before.version == 1
        assert before.models is old
        assert not old.closed
    await _until(lambda: old.closed)
    assert not world.runtimes.loaded[1].closed
    reaper.cancel()
    assert world.leaves()[2:] == ["POLICY_CHANGE", "MODEL_CHANGE"]


async def test_the_change_is_on_record_before_it_takes_effect(world: World) -> None:
    await world.want(world.repo.release(), 1)
    digest = world.repo.release(models={"m": b"new"})
    world.audit.gate.clear()
    world.desired.put(assign(digest, 2))
    cycle = asyncio.create_task(world.manager.reconcile())
    await _until(lambda: len(world.runtimes.loaded) == 2)
    assert world.answering() == 1
    world.audit.gate.set()
    await cycle
    assert world.answering() == 2


async def test_no_record_no_activation(world: World) -> None:
    await world.want(world.repo.release(), 1)
    world.audit.failure = StorageFull("the disk is full")
    observed = await world.want(world.repo.release(models={"m": b"new"}), 2)
    assert (observed.phase, observed.error_code) == (Phase.FAILED, "storage_full")
    assert world.answering() == 1
    world.audit.failure = None
    await world.manager.reconcile()
    assert world.answering() == 2


async def test_model_that_does_not_load_keeps_the_last_good_release(world: World) -> None:
    good = world.repo.release()
    await world.want(good, 1)
    world.runtimes.broken = {"bad"}
    observed = await world.want(world.repo.release(models={"bad": b"crashes the loader"}), 2)
    assert (observed.phase, observed.generation) == (Phase.FAILED, 2)
    assert (observed.error_code, observed.release_digest) == ("model_load_failed", good)
    assert world.answering() == 1
    assert world.leaves() == ["POLICY_CHANGE", "MODEL_CHANGE"]
    await world.restart()
    assert world.answering() == 1


@pytest.mark.parametrize(
    ("name", "target", "action", "message"),
    [
        ("best", "absent", "infer", "the release has no model absent"),
        ("m", "m", "infer", "target 'm' is a route"),
        ("m", "other", "infer", "route m has the name of a model"),
        ("best", "m", "chat", "model m does not serve chat"),
        ("best", "m", "infer", ""),
    ],
)
async def test_routes_that_do_not_fit_the_models_keep_the_last_good_release(
    world: World, name: str, target: str, action: str, message: str
) -> None:
    await world.want(world.repo.release(), 1)
    files = {
        "policy.yaml": json.dumps(document(allow("a"))),
        "policy-routes.yaml": route_text(target, name=name, actions=[action]),
    }
    pack = encode(Pack("test", "2", files))
    observed = await world.want(world.repo.release(models={"m": b"x"}, policy=pack), 2)
    if not message:
        assert world.answering() == 2
        return
    assert (observed.phase, observed.error_code) == (Phase.FAILED, "policy_invalid")
    assert message in observed.error_message
    assert world.answering() == 1


@pytest.mark.parametrize("model", ["absent", "m"])
async def test_a_cache_that_cannot_compare_questions_keeps_the_last_good_release(
    world: World, model: str
) -> None:
    await world.want(world.repo.release(), 1)
    similar = {"data_classes": [""], "threshold": "0.9", "embed_model": model}
    spec = {"models": ["*"], "data_classes": [""], "ttl_seconds": 60, "semantic": similar}
    head = {"apiVersion": "exclave.dev/v1", "kind": "Cache"}
    files = {
        "policy.yaml": json.dumps(document(allow("a"))),
        "policy-cache.yaml": json.dumps(
            head | {"metadata": {"name": "kept", "version": "1"}, "spec": spec}
        ),
    }
    pack = encode(Pack("test", "2", files))
    observed = await world.want(world.repo.release(models={"m": b"x"}, policy=pack), 2)
    assert (observed.phase, observed.error_code) == (Phase.FAILED, "policy_invalid")
    assert f"embed_model {model} is no model" in observed.error_message
    assert world.answering() == 1


@pytest.mark.parametrize(
    ("kind", "spec"),
    [("Retention", {"classes": [{"name": "short", "days": 0}]}), ("Telemetry", {"counts": False})],
)
async def test_documents_of_every_kind_are_activated(
    world: World, kind: str, spec: dict[str, object]
) -> None:
    await world.want(world.repo.release(), 1)
    head = {"apiVersion": "exclave.dev/v1", "kind": kind}
    files = {
        "policy.yaml": json.dumps(document(allow("a"))),
        "policy-more.yaml": json.dumps(
            head | {"metadata": {"name": "more", "version": "1"}, "spec": spec}
        ),
    }
    observed = await world.want(world.repo.release(policy=encode(Pack("test", "2", files))), 2)
    assert (observed.phase, observed.error_code) == (Phase.APPLIED, "")
    assert world.answering() == 2


async def test_policy_that_does_not_compile_keeps_the_last_good_release(world: World) -> None:
    await world.want(world.repo.release(), 1)
    observed = await world.want(world.repo.release(policy=b"no pack"), 2)
    assert (observed.phase, observed.error_code) == (Phase.FAILED, "policy_invalid")
    assert world.answering() == 1


async def test_release_with_a_truncated_model(world: World) -> None:
    await world.want(world.repo.release(), 1)
    digest = world.repo.release(models={"m": b"w" * 5000})
    for sha256, data in world.repo.source.targets.items():
        if len(data) == 5000:
            world.repo.source.targets[sha256] = data[:100]
    world.desired.put(assign(digest, 2))
    cycle = asyncio.create_task(world.manager.reconcile())
    while not cycle.done():
        await world.clock.advance(60)
        await asyncio.sleep(0.001)
    await cycle
    assert world.observed.value is not None
    assert world.observed.value.error_code == "fetch_failed"
    assert world.answering() == 1


async def test_below_the_floor_that_an_earlier_release_set(world: World) -> None:
    await world.want(world.repo.release(version=5, minimum=5), 1)
    observed = await world.want(world.repo.release(version=4), 2)
    assert (observed.phase, observed.error_code) == (Phase.FAILED, "below_floor")
    assert world.answering() == 5
    await world.restart()
    observed = await world.want(world.repo.release(version=4), 3)
    assert observed.error_code == "below_floor"


async def test_fleet_revert_is_newer_metadata_naming_the_older_release(world: World) -> None:
    first = world.repo.release()
    await world.want(first, 1)
    await world.want(world.repo.release(), 2)
    observed = await world.want(first, 3)
    assert observed.phase is Phase.APPLIED
    assert world.answering() == 1


async def test_replayed_assignment_is_refused_after_a_restart_too(world: World) -> None:
    first, second = world.repo.release(), world.repo.release()
    await world.want(second, 7)
    await world.restart()
    observed = await world.want(first, 6)
    assert (observed.phase, observed.error_code) == (Phase.FAILED, "assignment_invalid")
    assert world.answering() == 2


async def test_same_release_under_a_newer_assignment_changes_nothing_but_the_number(
    world: World,
) -> None:
    digest = world.repo.release()
    await world.want(digest, 1)
    observed = await world.want(digest, 2)
    assert (observed.phase, observed.generation) == (Phase.APPLIED, 2)
    assert len(world.runtimes.loaded) == 1
    assert len(world.leaves()) == 2
    await world.restart()
    assert world.history[-1].generation == 2


async def test_a_release_that_its_signers_withdrew_gets_no_new_generation(world: World) -> None:
    digest = world.repo.release()
    await world.want(digest, 1)
    del world.repo.entries[release_path(digest)]
    world.repo.publish()
    observed = await world.want(digest, 2)
    assert (observed.phase, observed.error_code) == (Phase.FAILED, "mismatch")
    # Withdrawing is not stopping: what answers goes on until something else is assigned.
    assert world.manager.status().generation == 1
    assert world.answering() == 1


async def test_a_release_in_use_is_not_downloaded_again(world: World) -> None:
    await world.want(world.repo.release(), 1)
    reads = len(world.repo.source.reads)
    await world.manager.reconcile()
    assert len(world.repo.source.reads) == reads


async def test_garbage_is_collected_but_current_and_last_good_stay(world: World) -> None:
    for number, weights in enumerate((b"one", b"two", b"three"), start=1):
        await world.want(world.repo.release(models={"m": weights}), number)
    kept = {p.read_bytes() for p in (world.home / "artifacts" / "sha256").iterdir()}
    assert {b"two", b"three"} <= kept
    assert b"one" not in kept
    assert len(kept) == 6  # two releases: manifest, pack, model


# --- without the coordinator ---------------------------------------------------------------


async def test_restored_from_disk_without_the_coordinator(world: World) -> None:
    digest = world.repo.release()
    await world.want(digest, 1)
    world.repo.source.offline = True
    await world.restart()
    assert world.answering() == 1
    assert world.history == [Observed(1, Phase.APPLIED, digest)]
    assert len(world.leaves()) == 2  # a restart records no change


async def test_a_lost_link_changes_nothing_while_the_grace_lasts(world: World) -> None:
    await world.want(world.repo.release(grace=3600), 1)
    world.repo.source.offline = True
    await world.clock.advance(3599)
    await world.manager.reconcile()
    assert world.answering() == 1
    assert _phase(world) is Phase.APPLIED


async def test_offline_grace_ends_and_returns(world: World) -> None:
    await world.want(world.repo.release(grace=3600), 1)
    world.repo.source.offline = True
    await world.clock.advance(3601)
    await world.manager.reconcile()
    with pytest.raises(NoRelease, match="offline grace ended"):
        world.answering()
    await world.restart()
    with pytest.raises(NoRelease, match="offline grace ended"):
        world.answering()
    world.repo.source.offline = False
    await world.manager.reconcile()
    assert world.answering() == 1


async def test_expired_metadata_brings_nothing_new_and_no_more_grace(world: World) -> None:
    first = world.repo.release(grace=100_000)
    await world.want(first, 1)
    await world.clock.advance(90_000)
    observed = await world.want(world.repo.release(publish=False), 2)
    assert (observed.phase, observed.error_code) == (Phase.FAILED, "expired")
    assert world.answering() == 1
    await world.clock.advance(10_001)
    with pytest.raises(NoRelease):
        world.answering()


async def test_short_grace_is_renewed_in_time(world: World) -> None:
    await world.want(world.repo.release(grace=30), 1)
    assert await world.manager.reconcile() <= 10


async def test_rotten_model_on_disk_falls_back_and_is_fetched_again(world: World) -> None:
    first = world.repo.release(models={"m": b"one"})
    await world.want(first, 1)
    second = world.repo.release(models={"m": b"two"})
    await world.want(second, 2)
    for path in (world.home / "artifacts" / "sha256").iterdir():
        if path.read_bytes() == b"two":
            path.write_bytes(b"rot")
    await world.restart()
    assert (_phase(world), world.answering()) == (Phase.REVERTED, 1)
    observed = await world.want(second, 2)
    assert (observed.phase, world.answering()) == (Phase.APPLIED, 2)


async def test_release_that_no_longer_loads_falls_back_and_stays_there(world: World) -> None:
    first = world.repo.release(models={"m": b"one"})
    await world.want(first, 1)
    second = world.repo.release(models={"late": b"two"})
    await world.want(second, 2)
    world.runtimes.broken = {"late"}
    await world.restart()
    reverted = Observed(
        2, Phase.REVERTED, first, "model_load_failed", world.history[-1].error_message
    )
    assert world.history == [reverted]
    assert world.answering() == 1
    world.runtimes.broken = set()
    assert (await world.want(second, 2)).phase is Phase.REVERTED  # not tried again by itself
    await world.restart()
    assert world.history[-1].phase is Phase.REVERTED
    assert (await world.want(second, 3)).phase is Phase.APPLIED


async def test_local_revert_works_offline_and_is_recorded(world: World) -> None:
    first = world.repo.release(models={"m": b"one"})
    await world.want(first, 1)
    await world.want(world.repo.release(models={"m": b"two"}), 2)
    world.repo.source.offline = True
    assert await world.manager.revert("worker_crashed", "the worker died again and again")
    assert world.answering() == 1
    assert world.observed.value == Observed(
        2, Phase.REVERTED, first, "worker_crashed", "the worker died again and again"
    )
    assert world.leaves()[4:] == ["POLICY_CHANGE", "MODEL_CHANGE"]


async def _loop_of(world: World, model: bytes) -> None:
    """A crash loop of the model with these bytes is seen."""
    loop = CrashLoop("m", hashlib.sha256(model).hexdigest(), "ended by SIGSEGV")
    await CrashWatch(world.manager, world.audit, Latest()).act(loop)


async def test_a_crash_loop_reverts_to_the_last_good_release(world: World) -> None:
    first = world.repo.release(models={"m": b"good"})
    await world.want(first, 1)
    await world.want(world.repo.release(models={"m": b"dies"}), 2)
    await _loop_of(world, b"dies")
    assert world.answering() == 1
    observed = world.observed.value
    assert observed is not None
    assert (observed.phase, observed.error_code) == (Phase.REVERTED, "model_crash_loop")
    assert world.leaves()[4:] == ["INCIDENT", "POLICY_CHANGE", "MODEL_CHANGE"]


async def test_a_crash_loop_of_a_model_that_both_hold_is_recorded_only(world: World) -> None:
    await world.want(world.repo.release(models={"m": b"dies"}), 1)
    await world.want(world.repo.release(models={"m": b"dies"}), 2)
    await _loop_of(world, b"dies")
    assert world.leaves()[-1] == "INCIDENT"
    assert world.answering() == 2


async def test_a_crash_loop_of_a_model_no_longer_in_use_is_nothing(world: World) -> None:
    await world.want(world.repo.release(models={"m": b"good"}), 1)
    before = world.leaves()
    await _loop_of(world, b"gone")
    assert world.leaves() == before


async def test_local_revert_stops_at_the_security_floor(world: World) -> None:
    await world.want(world.repo.release(version=1), 1)
    await world.want(world.repo.release(version=2, minimum=2), 2)
    assert not await world.manager.revert("worker_crashed", "the worker died")
    assert world.answering() == 2
    assert _phase(world) is Phase.FAILED


async def test_rollback_is_refused_even_when_the_metadata_folder_is_lost(world: World) -> None:
    await world.want(world.repo.release(), 1)
    old = dict(world.repo.source.files)
    second = world.repo.release()
    await world.want(second, 2)
    for path in sorted((world.home / "tuf").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    world.repo.source.files = old
    observed = await world.want(second, 3)
    assert (observed.phase, observed.error_code) == (Phase.FAILED, "rolled_back")


async def test_failing_generation_is_retried_ever_more_slowly(world: World) -> None:
    world.runtimes.broken = {"m"}
    digest = world.repo.release()
    world.desired.put(assign(digest, 1))
    delays = [await world.manager.reconcile() for _ in range(9)]
    assert 15 <= delays[0] <= 30
    assert delays[-1] >= 1800
    assert max(delays) <= 3600
    world.runtimes.broken = set()
    world.desired.put(assign(world.repo.release(), 2))
    assert await world.manager.reconcile() <= 330


async def test_failed_stays_failed_while_it_is_retried(world: World) -> None:
    world.runtimes.broken = {"m"}
    digest = world.repo.release()
    await world.want(digest, 1)
    world.history.clear()
    await world.manager.reconcile()
    assert world.history == []


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def _phase(world: World) -> Phase | None:
    return world.observed.value.phase if world.observed.value is not None else None
