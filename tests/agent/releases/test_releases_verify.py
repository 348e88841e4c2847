"""What is refused, and under which code: every way to sign, mix, roll back or address badly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from exclave_agent.errors import LinkError, ReleaseRefused
from exclave_agent.releases import verify
from exclave_agent.releases.report import Desired
from exclave_agent.releases.verify import Repository
from exclave_protocol.release import ArtifactRef
from exclave_testing.clock import START_NS, FakeClock
from exclave_testing.tuf_repo import TufRepo, assign

SECONDS = START_NS // 1_000_000_000
DAY = 86_400


class Client:
    """An agent's view of a repository."""

    def __init__(self, repo: TufRepo, folder: Path, executor: ThreadPoolExecutor) -> None:
        self.clock = FakeClock()
        self.repository = Repository(
            folder, repo.scope, repo.source, clock=self.clock, executor=executor
        )

    async def refused(self) -> str:
        """The code under which a refresh is refused."""
        with pytest.raises(ReleaseRefused) as caught:
            await self.repository.refresh()
        return caught.value.code


@pytest.fixture
def repo() -> TufRepo:
    return TufRepo()


@pytest.fixture
async def client(repo: TufRepo, tmp_path: Path) -> AsyncIterator[Client]:
    with ThreadPoolExecutor(1) as executor:
        yield Client(repo, tmp_path / "tuf", executor)


async def test_a_good_release_is_found_by_its_digest(repo: TufRepo, client: Client) -> None:
    digest = repo.release()
    targets = await client.repository.refresh()
    ref = verify.find_manifest(digest, targets)
    assert ref.length == len(repo.source.targets[digest])
    assert (targets.root_version, targets.targets_version) == (1, 1)


async def test_missing_next_root_means_that_ours_is_the_newest(
    repo: TufRepo, client: Client
) -> None:
    repo.release()
    await client.repository.refresh()
    assert "2.root.json" in repo.source.asked


async def test_a_root_other_than_the_pinned_one_is_refused_before_use(
    repo: TufRepo, tmp_path: Path, client: Client
) -> None:
    repo.release()
    stranger = TufRepo(("eve", "mal", "oz"))
    stranger.release()
    repo.source.files = stranger.source.files
    assert await client.refused() == "root_mismatch"
    assert not (tmp_path / "tuf" / "1.root.json").exists()
    assert repo.source.asked == ["1.root.json"]


async def test_a_pinned_root_altered_on_disk_is_refused(
    repo: TufRepo, tmp_path: Path, client: Client
) -> None:
    repo.release()
    await client.repository.refresh()
    other = TufRepo(("eve", "mal", "oz"))
    (tmp_path / "tuf" / "1.root.json").write_bytes(other.source.files["1.root.json"])
    assert await client.refused() == "root_mismatch"


async def test_unsigned_targets(repo: TufRepo, client: Client) -> None:
    repo.release(publish=False)
    repo.publish(signers=())
    assert await client.refused() == "unsigned"


async def test_one_of_two_signatures_is_not_enough(repo: TufRepo, client: Client) -> None:
    repo.release(publish=False)
    repo.publish(signers=("ann",))
    assert await client.refused() == "under_signed"


async def test_signatures_of_strangers_do_not_count(repo: TufRepo, client: Client) -> None:
    repo.release(publish=False)
    repo.publish(signers=("eve", "mal"))
    assert await client.refused() == "unsigned"


def _alter(data: bytes, change: Callable[[dict[str, object]], None]) -> bytes:
    document = json.loads(data)
    change(document["signed"])
    return json.dumps(document).encode()


async def test_targets_altered_after_signing(repo: TufRepo, client: Client) -> None:
    repo.release()
    name = "1.targets.json"
    repo.source.files[name] = _alter(
        repo.source.files[name], lambda signed: signed.update(targets={})
    )
    assert await client.refused() == "tampered"


async def test_metadata_that_is_no_metadata(repo: TufRepo, client: Client) -> None:
    repo.release()
    repo.source.files["timestamp.json"] = b"[" * 5000
    assert await client.refused() == "tampered"


async def test_snapshot_bytes_other_than_the_timestamp_names(repo: TufRepo, client: Client) -> None:
    repo.release()
    repo.source.files["1.snapshot.json"] += b" "
    assert await client.refused() == "tampered"


async def test_endless_metadata(repo: TufRepo, client: Client) -> None:
    repo.release()
    repo.source.files["timestamp.json"] = b" " * 20_000
    assert await client.refused() == "tampered"


@pytest.mark.parametrize(("targets", "snapshot", "timestamp"), [(-1, 1, 1), (1, -1, 1), (1, 1, -1)])
async def test_expired_metadata(
    repo: TufRepo, client: Client, targets: float, snapshot: float, timestamp: float
) -> None:
    repo.release(publish=False)
    repo.publish(targets_days=targets, snapshot_days=snapshot, timestamp_days=timestamp)
    assert await client.refused() == "expired"


async def test_expiry_is_judged_by_the_agents_trusted_time(repo: TufRepo, client: Client) -> None:
    """The machine's own clock is years before this one: only ours says that a day has passed."""
    repo.release()
    await client.repository.refresh()
    client.clock.step(DAY + 1)
    assert await client.refused() == "expired"


async def test_root_that_expired(repo: TufRepo, client: Client) -> None:
    repo.release()
    client.clock.step(366 * DAY)
    assert await client.refused() == "expired"


@pytest.mark.parametrize("keep", ["timestamp.json", "all"])
async def test_rolled_back(repo: TufRepo, client: Client, keep: str) -> None:
    repo.release()
    old = dict(repo.source.files)
    repo.release()
    await client.repository.refresh()
    if keep == "all":
        repo.source.files.clear()
    repo.source.files.update(old)
    assert await client.refused() == "rolled_back"


async def test_snapshot_that_names_older_targets(repo: TufRepo, client: Client) -> None:
    """The online keys alone cannot bring an older targets version back."""
    repo.release()
    repo.release()
    await client.repository.refresh()
    repo.versions["targets"] = 1
    repo.refresh_timestamp()
    assert await client.refused() == "rolled_back"


async def test_files_of_two_publications_mixed(repo: TufRepo, client: Client) -> None:
    repo.release()
    repo.release()
    repo.source.files["2.targets.json"] = repo.source.files["1.targets.json"]
    assert await client.refused() == "mix_and_match"


async def test_snapshot_of_another_publication(repo: TufRepo, client: Client) -> None:
    repo.release()
    repo.release()
    repo.source.files["2.snapshot.json"] = repo.source.files["1.snapshot.json"]
    assert await client.refused() == "mix_and_match"


async def test_root_rotation_by_both_old_and_new_people(repo: TufRepo, client: Client) -> None:
    repo.release()
    await client.repository.refresh()
    repo.rotate(("bob", "cho", "dan"))
    repo.release()
    targets = await client.repository.refresh()
    assert targets.root_version == 2


async def test_root_rotation_without_the_old_people(repo: TufRepo, client: Client) -> None:
    repo.release()
    repo.rotate(("dan", "eve", "fay"), signers=("dan", "eve", "fay"))
    assert await client.refused() == "unsigned"


async def test_root_rotation_under_signed(repo: TufRepo, client: Client) -> None:
    repo.release()
    repo.rotate(("dan", "eve", "fay"), signers=("ann", "dan", "eve", "fay"))
    assert await client.refused() == "under_signed"


async def test_people_who_left_cannot_sign_any_more(repo: TufRepo, client: Client) -> None:
    repo.release()
    repo.rotate(("dan", "eve", "fay"))
    repo.release(publish=False)
    repo.publish(signers=("ann", "bob"))
    assert await client.refused() == "unsigned"


async def test_nothing_published(repo: TufRepo, client: Client) -> None:
    assert await client.refused() == "fetch_failed"


async def test_a_lost_link_is_no_refusal(repo: TufRepo, client: Client) -> None:
    repo.release()
    repo.source.offline = True
    with pytest.raises(LinkError) as caught:
        await client.repository.refresh()
    assert caught.value.code == "unreachable"


async def test_a_link_lost_in_the_middle_is_no_refusal(repo: TufRepo, client: Client) -> None:
    repo.release()
    await client.repository.refresh()
    repo.source.offline = True
    with pytest.raises(LinkError):
        await client.repository.refresh()


async def test_cancelling_a_cycle_ends_its_thread(repo: TufRepo, client: Client) -> None:
    repo.release()
    await client.repository.refresh()
    repo.source.gate = asyncio.Event()
    asked = len(repo.source.asked)
    cycle = asyncio.create_task(client.repository.refresh())
    async with asyncio.timeout(10):
        while len(repo.source.asked) == asked:
            await asyncio.sleep(0.001)
        cycle.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cycle
    repo.source.gate.set()
    assert (await client.repository.refresh()).targets_version == 1


# --- the release against the metadata ------------------------------------------------------


async def test_release_that_nobody_signed(repo: TufRepo, client: Client) -> None:
    repo.release()
    targets = await client.repository.refresh()
    with pytest.raises(ReleaseRefused) as caught:
        verify.find_manifest("0" * 64, targets)
    assert caught.value.code == "mismatch"


@pytest.mark.parametrize("change", ["length", "sha256", "path"])
async def test_artifact_that_the_targets_do_not_name_so(
    repo: TufRepo, client: Client, change: str
) -> None:
    def alter(ref: ArtifactRef) -> ArtifactRef:
        other = {"length": ref.length + 1, "sha256": "0" * 64, "path": "policies/other.json"}
        return replace(ref, **{change: other[change]})

    digest = repo.release(alter=lambda m: replace(m, policy=alter(m.policy)))
    targets = await client.repository.refresh()
    manifest = verify.check_manifest(repo.source.targets[digest], digest, repo.scope, floor=0)
    with pytest.raises(ReleaseRefused) as caught:
        verify.check_artifacts(manifest, targets)
    assert caught.value.code == "mismatch"


def _manifest_code(repo: TufRepo, digest: str, data: bytes, floor: int = 0) -> str:
    with pytest.raises(ReleaseRefused) as caught:
        verify.check_manifest(data, digest, repo.scope, floor=floor)
    return caught.value.code


def test_manifest_of_another_tenant(repo: TufRepo) -> None:
    digest = repo.release(tenant="globex")
    assert _manifest_code(repo, digest, repo.source.targets[digest]) == "wrong_tenant"


def test_manifest_with_a_flipped_byte(repo: TufRepo) -> None:
    digest = repo.release()
    data = bytearray(repo.source.targets[digest])
    data[20] ^= 1
    assert _manifest_code(repo, digest, bytes(data)) == "tampered"


def test_manifest_below_the_security_floor(repo: TufRepo) -> None:
    digest = repo.release(version=4)
    data = repo.source.targets[digest]
    assert _manifest_code(repo, digest, data, floor=5) == "below_floor"
    assert verify.check_manifest(data, digest, repo.scope, floor=4).version == 4


# --- the assignment --------------------------------------------------------------------------

DIGEST = "ab" * 32


@pytest.mark.parametrize(
    ("desired", "code"),
    [
        (assign(DIGEST, 7, agent="edge-2"), "assignment_invalid"),
        (assign(DIGEST, 7, tenant="globex"), "wrong_tenant"),
        (assign(DIGEST, 7, domain="evil.example"), "wrong_tenant"),
        (assign(DIGEST, 7, director="stranger"), "assignment_invalid"),
        (assign(DIGEST, 4), "assignment_invalid"),
        (assign(DIGEST, 7, announced=8), "assignment_invalid"),
        (assign(DIGEST, 7, seconds=60), "expired"),
        (Desired(7, b""), "assignment_invalid"),
        (Desired(7, b'{"payload":"","payloadType":"x","signatures":[]}'), "assignment_invalid"),
    ],
    ids=[
        "another-agent",
        "another-tenant",
        "another-domain",
        "another-director",
        "replayed",
        "announced-otherwise",
        "expired",
        "empty",
        "unsigned",
    ],
)
def test_assignment_refused(repo: TufRepo, desired: Desired, code: str) -> None:
    with pytest.raises(ReleaseRefused) as caught:
        verify.check_assignment(desired, repo.scope, now=SECONDS + 60, seen=5)
    assert caught.value.code == code


def test_assignment_taken(repo: TufRepo) -> None:
    assignment = verify.check_assignment(assign(DIGEST, 5), repo.scope, now=SECONDS, seen=5)
    assert (assignment.generation, assignment.release_digest) == (5, DIGEST)
