"""TUF metadata: what we write, the reference client accepts; what is wrong, we refuse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater

from exclave_protocol import tufmeta
from exclave_protocol.errors import MetadataError, SignaturesMissing
from exclave_protocol.tufmeta import ROOT, TARGETS

NOW = datetime.now(UTC)
LATER = NOW + timedelta(days=30)


def signer(seed: int) -> CryptoSigner:
    """A key that is the same in every run."""
    return tufmeta.signer_from_private(Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32))


ALICE, BOB, CAROL, SNAPSHOT_KEY, TIMESTAMP_KEY, MALLORY = map(signer, range(1, 7))
PEOPLE = [s.public_key for s in (ALICE, BOB, CAROL)]


def root_of(*signers: CryptoSigner, threshold: int = 2) -> bytes:
    """Root version 1 signed by these."""
    root = tufmeta.new_root(
        PEOPLE, threshold, SNAPSHOT_KEY.public_key, TIMESTAMP_KEY.public_key, LATER
    )
    for one in signers:
        tufmeta.add_signature(root, one)
    return tufmeta.to_bytes(root)


def root_after(current: bytes, people: list[SSlibKey], *signers: CryptoSigner) -> bytes:
    """The next root, with these people, signed by these."""
    root = tufmeta.next_root(
        tufmeta.load_root(current).signed,
        people,
        2,
        SNAPSHOT_KEY.public_key,
        TIMESTAMP_KEY.public_key,
        LATER,
    )
    for one in signers:
        tufmeta.add_signature(root, one)
    return tufmeta.to_bytes(root)


def targets_of(
    *signers: CryptoSigner, version: int = 1, expires: datetime = LATER, digest: str = "a" * 64
) -> bytes:
    """Targets with one release, signed by these."""
    entry = tufmeta.target_file(f"releases/{digest}.json", digest, 3, {"exclave": {"v": 1}})
    targets = tufmeta.new_targets(version, [entry], expires)
    for one in signers:
        tufmeta.add_signature(targets, one)
    return tufmeta.to_bytes(targets)


class Repository(FetcherInterface):
    """Metadata in memory, as the coordinator's Artifact service would answer."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = urlsplit(url).path.rpartition("/")[2]
        if name not in self.files:
            raise DownloadHTTPError("no such metadata", 404)
        return iter([self.files[name]])


def test_the_reference_client_accepts_a_published_repository(tmp_path: Path) -> None:
    root, targets = root_of(ALICE, CAROL), targets_of(BOB, CAROL)
    second = root_after(root, PEOPLE, ALICE, BOB)
    snapshot, timestamp = tufmeta.sign_snapshot_timestamp(
        targets_version=1,
        snapshot_version=1,
        timestamp_version=1,
        snapshot_signer=SNAPSHOT_KEY,
        timestamp_signer=TIMESTAMP_KEY,
        snapshot_expires=LATER,
        timestamp_expires=LATER,
    )
    files = {
        "1.root.json": root,
        "2.root.json": second,
        "timestamp.json": timestamp,
        "1.snapshot.json": snapshot,
        "1.targets.json": targets,
    }
    client = Updater(str(tmp_path), "http://x/m/", fetcher=Repository(files), bootstrap=root)
    client.refresh()
    found = client.get_targetinfo(f"releases/{'a' * 64}.json")
    assert found is not None
    assert found.hashes == {"sha256": "a" * 64}
    # A fresh timestamp over the same snapshot is accepted by the same client state.
    files["timestamp.json"] = tufmeta.sign_timestamp(
        snapshot_bytes=snapshot,
        snapshot_version=1,
        timestamp_version=2,
        timestamp_signer=TIMESTAMP_KEY,
        timestamp_expires=LATER,
    )
    Updater(str(tmp_path), "http://x/m/", fetcher=Repository(files), bootstrap=root).refresh()


def test_the_root_pin_does_not_depend_on_signatures_or_spelling() -> None:
    pin = tufmeta.root_pin(root_of())
    assert pin == tufmeta.root_pin(root_of(ALICE, BOB))
    assert pin == tufmeta.root_pin(json.dumps(json.loads(root_of(CAROL)), indent=3).encode())
    assert pin != tufmeta.root_pin(root_of(threshold=3))


def test_missing_signatures_are_counted_by_key() -> None:
    root = tufmeta.load_root(root_of(ALICE))
    state = tufmeta.missing_signatures(root, root.signed, ROOT)
    assert (state.have, state.need, state.missing, state.complete) == (1, 2, 1, False)
    assert state.signed_keyids == (ALICE.public_key.keyid,)
    others = (BOB.public_key.keyid, CAROL.public_key.keyid)
    assert state.missing_keyids == tuple(sorted(others))
    tufmeta.add_signature(root, MALLORY)
    tufmeta.add_signature(root, ALICE)
    assert tufmeta.missing_signatures(root, root.signed, ROOT).have == 1


def test_an_unsigned_root_or_one_of_another_version_is_refused() -> None:
    with pytest.raises(SignaturesMissing) as caught:
        tufmeta.verify_roots(None, [root_of(ALICE)])
    assert (caught.value.role, caught.value.have, caught.value.need) == (ROOT, 1, 2)
    good = root_of(ALICE, BOB)
    with pytest.raises(MetadataError, match="version 1 was offered where 2 must follow"):
        tufmeta.verify_roots(good, [good])
    second = root_after(good, PEOPLE, ALICE, BOB)
    with pytest.raises(MetadataError, match="version 2 was offered where 1 must follow"):
        tufmeta.verify_roots(None, [second])
    with pytest.raises(MetadataError, match="no root metadata"):
        tufmeta.verify_roots(None, [])
    assert tufmeta.verify_roots(None, [good, second]).signed.version == 2
    assert tufmeta.verify_roots(good, []).signed.version == 1


def test_a_new_root_needs_the_old_keys_and_the_new_ones() -> None:
    old = root_of(ALICE, BOB)
    people = [BOB.public_key, MALLORY.public_key]
    for signers in ([BOB, MALLORY], [ALICE, BOB]):
        with pytest.raises(SignaturesMissing):
            tufmeta.verify_roots(old, [root_after(old, people, *signers)])
    done = tufmeta.verify_roots(old, [root_after(old, people, ALICE, BOB, MALLORY)])
    assert set(done.signed.roles[ROOT].keyids) == {BOB.public_key.keyid, MALLORY.public_key.keyid}


def test_targets_are_refused_when_under_signed_rolled_back_or_expired() -> None:
    root = tufmeta.load_root(root_of(ALICE, BOB)).signed
    good = targets_of(ALICE, CAROL, version=5)
    assert tufmeta.verify_targets(root, good, now=NOW, newer_than=4).signed.version == 5
    for signers in ([], [ALICE], [ALICE, MALLORY], [SNAPSHOT_KEY, TIMESTAMP_KEY]):
        with pytest.raises(SignaturesMissing):
            tufmeta.verify_targets(root, targets_of(*signers), now=NOW)
    for newest in (5, 6):
        with pytest.raises(MetadataError, match="rolled back"):
            tufmeta.verify_targets(root, good, now=NOW, newer_than=newest)
    with pytest.raises(MetadataError, match="expired"):
        tufmeta.verify_targets(root, good, now=LATER + timedelta(seconds=1))
    tampered = good.replace(b'"length":3', b'"length":4')
    with pytest.raises(SignaturesMissing, match="0 of 2"):
        tufmeta.verify_targets(root, tampered, now=NOW)


def test_one_key_under_two_ids_does_not_count_twice() -> None:
    twin = SSlibKey("00", "ed25519", "ed25519", dict(ALICE.public_key.keyval))
    root = tufmeta.new_root(
        [ALICE.public_key, twin], 2, SNAPSHOT_KEY.public_key, TIMESTAMP_KEY.public_key, LATER
    )
    with pytest.raises(MetadataError, match="one key under two ids"):
        tufmeta.load_root(tufmeta.to_bytes(root))


@pytest.mark.parametrize(
    ("people", "threshold", "message"),
    [
        (PEOPLE[:1] * 2, 1, "named twice"),
        (PEOPLE, 4, "threshold"),
        (PEOPLE, 0, "threshold"),
        ([], 1, "threshold"),
        ([*PEOPLE, SNAPSHOT_KEY.public_key], 2, "online key"),
    ],
)
def test_unsound_key_sets_are_refused(people: list[SSlibKey], threshold: int, message: str) -> None:
    with pytest.raises(MetadataError, match=message):
        tufmeta.new_root(
            people, threshold, SNAPSHOT_KEY.public_key, TIMESTAMP_KEY.public_key, LATER
        )


def test_signatures_of_two_copies_are_joined() -> None:
    mine, theirs = tufmeta.load_targets(targets_of(ALICE)), tufmeta.load_targets(targets_of(BOB))
    assert tufmeta.merge_signatures(mine, theirs) == 1
    assert tufmeta.merge_signatures(mine, theirs) == 0
    root = tufmeta.load_root(root_of()).signed
    assert tufmeta.missing_signatures(mine, root, TARGETS).complete
    with pytest.raises(MetadataError, match="differ"):
        tufmeta.merge_signatures(mine, tufmeta.load_targets(targets_of(BOB, version=2)))


def test_metadata_of_another_role_or_shape_is_refused() -> None:
    root, targets = root_of(ALICE, BOB), targets_of(ALICE, BOB)
    for load, data in ((tufmeta.load_root, targets), (tufmeta.load_targets, root)):
        with pytest.raises(MetadataError, match="of role"):
            load(data)
    inconsistent = root.replace(b'"consistent_snapshot":true', b'"consistent_snapshot":false')
    with pytest.raises(MetadataError, match="consistent snapshots"):
        tufmeta.load_root(inconsistent)
    for data in (b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"signed":1,"signatures":[]}'):
        with pytest.raises(MetadataError):
            tufmeta.load_root(data)
    with pytest.raises(MetadataError, match="longer than"):
        tufmeta.load_targets(b" " * (5 << 20))


def test_delegations_are_refused() -> None:
    value = json.loads(targets_of())
    value["signed"]["delegations"] = {"keys": {}, "roles": []}
    with pytest.raises(MetadataError, match="delegates"):
        tufmeta.load_targets(json.dumps(value).encode())


def test_expiry_must_name_its_zone() -> None:
    with pytest.raises(MetadataError, match="aware"):
        tufmeta.new_targets(1, [], datetime(2027, 1, 1))


def test_a_public_key_of_the_wrong_size_is_refused() -> None:
    with pytest.raises(MetadataError, match="32 bytes"):
        tufmeta.key_from_public(b"short")
