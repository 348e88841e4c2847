"""A sealed backup opens with its passphrase, whole and in order, or not at all."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from exclave_coordinator.backup.restore import restore
from exclave_coordinator.backup.save import backup
from exclave_coordinator.backup.seal import (
    COST,
    MAGIC,
    PIECE,
    SALT,
    TAG,
    Opener,
    Sealer,
    passphrase_of,
)
from exclave_coordinator.errors import SetupError
from exclave_coordinator.system import SystemClock, SystemRng
from exclave_testing.coordinator import new_home

PASSPHRASE = b"correct horse battery staple"
HEAD = len(MAGIC) + len(COST) + SALT
BIT = PIECE + TAG


def sealed(data: bytes, *, step: int = 1 << 16, salt: bytes = bytes(SALT)) -> bytes:
    """What a sealer makes of it, written in steps."""
    out = io.BytesIO()
    sealer = Sealer(out, PASSPHRASE, salt)
    for at in range(0, len(data), step):
        sealer.write(data[at : at + step])
    sealer.close()
    return out.getvalue()


def opened(data: bytes, *, step: int = 10_240, passphrase: bytes = PASSPHRASE) -> bytes:
    """What an opener makes of that."""
    opener = Opener(io.BytesIO(data), passphrase)
    out = b"".join(iter(lambda: opener.read(step), b""))
    opener.finish()
    return out


def pattern(length: int) -> bytes:
    """Bytes in which every piece differs."""
    return b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(length // 32 + 1))[:length]


@pytest.fixture(scope="module")
def three() -> bytes:
    """Three pieces, sealed."""
    return sealed(pattern(2 * PIECE + 77))


@pytest.mark.parametrize("length", [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE])
def test_what_is_sealed_opens(length: int) -> None:
    data = pattern(length)
    box = sealed(data, step=PIECE // 3 + 1)
    assert len(box) == HEAD + length + TAG * max(1, -(-length // PIECE))
    assert opened(box) == data
    assert data[:32] not in box or not length


def test_the_format_is_frozen() -> None:
    """Bytes that lie in vaults for years: a change of them is another format."""
    box = sealed(b"hello", salt=bytes(range(16)))
    assert box.hex() == (
        "4558434c4156452d5345414c45442d310a110801000102030405060708090a0b0c0d0e0f"
        "5e3883f3b3c7c0c4e3647beee9bb0302b079c96fa9"
    )


def test_the_format_by_hand() -> None:
    """As the module describes it, with the standard library's scrypt."""
    box = sealed(b"hello", salt=bytes(range(16)))
    key = hashlib.scrypt(PASSPHRASE, salt=box[20:36], n=1 << 17, r=8, p=1, maxmem=1 << 28)[:32]
    nonce = bytes(11) + b"\x01"
    assert AESGCM(key).decrypt(nonce, box[36:], box[:36]) == b"hello"


def test_two_salts_make_two_boxes() -> None:
    assert sealed(b"x", salt=b"a" * 16)[HEAD:] != sealed(b"x", salt=b"b" * 16)[HEAD:]


def test_another_passphrase_opens_nothing(three: bytes) -> None:
    with pytest.raises(SetupError, match="the passphrase is wrong, or the backup is damaged"):
        opened(three, passphrase=b"correct horse battery stapler")


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("head", "newer version"),
        ("salt", "passphrase is wrong"),
        ("first", "passphrase is wrong"),
        ("second", "MiB 2"),
        ("tag", "MiB 3"),
    ],
)
def test_a_changed_byte_is_found(three: bytes, what: str, said: str) -> None:
    places = {
        "head": len(MAGIC),
        "salt": HEAD - 1,
        "first": HEAD,
        "second": HEAD + BIT + 5,
        "tag": len(three) - 1,
    }
    bent = bytearray(three)
    bent[places[what]] ^= 1
    with pytest.raises(SetupError, match=said):
        opened(bytes(bent))


@pytest.mark.parametrize(
    "length", [HEAD - 1, HEAD, HEAD + 5, HEAD + BIT - 1, HEAD + BIT, HEAD + 2 * BIT, -1]
)
def test_an_end_that_is_missing_is_found(three: bytes, length: int) -> None:
    with pytest.raises(SetupError, match=r"not whole|damaged"):
        opened(three[:length])


def test_pieces_that_are_moved_or_added_are_found(three: bytes) -> None:
    head, one, two, rest = (
        three[:HEAD],
        three[HEAD : HEAD + BIT],
        three[HEAD + BIT : HEAD + 2 * BIT],
        three[HEAD + 2 * BIT :],
    )
    for pieces in ((two, one, rest), (one, rest), (one, one, two, rest), (one, two, rest, rest)):
        with pytest.raises(SetupError):
            opened(head + b"".join(pieces))


def test_nobody_else_chooses_how_much_memory_is_spent(three: bytes) -> None:
    greedy = MAGIC + bytes((40, 8, 1)) + three[len(MAGIC) + 3 :]
    with pytest.raises(SetupError, match="newer version"):
        opened(greedy)


@pytest.mark.parametrize("text", [b"", b"short", b"two lines\nof a passphrase\n", b"eleven char"])
def test_passphrases_that_are_none(text: bytes) -> None:
    with pytest.raises(SetupError, match="passphrase file"):
        passphrase_of(text)


def test_the_line_end_is_no_part_of_a_passphrase() -> None:
    for end in (b"", b"\n", b"\r\n"):
        assert passphrase_of(PASSPHRASE + end) == PASSPHRASE


def test_a_coordinator_through_the_seal(tmp_path: Path) -> None:
    home = new_home(tmp_path / "home")
    (home.artifacts / "acme" / "sha256").mkdir(parents=True)
    model = pattern(3 * PIECE)
    (home.artifacts / "acme" / "sha256" / hashlib.sha256(model).hexdigest()).write_bytes(model)
    file = tmp_path / "sealed"
    backup(home, file, version="1", clock=SystemClock(), rng=SystemRng(), passphrase=PASSPHRASE)
    secret = home.ca_key.read_bytes().splitlines()[1]
    assert secret not in file.read_bytes()

    def load(path: Path, passphrase: bytes = PASSPHRASE) -> None:
        restore(
            path, tmp_path / "again", clock=SystemClock(), rng=SystemRng(), passphrase=passphrase
        )

    with pytest.raises(SetupError, match="--passphrase-file"):
        load(file, b"")
    cut = tmp_path / "cut"
    cut.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(SetupError, match="not whole"):
        load(cut)
    assert not (tmp_path / "again").exists()
    load(file)
    assert (tmp_path / "again" / "ca" / "ca.key").read_bytes() == home.ca_key.read_bytes()
