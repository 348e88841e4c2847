"""Joining: once, safely repeated, pinned, and refused with a reason."""

from __future__ import annotations

import asyncio
import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from exclave_agent.errors import IdentityError, LinkError
from exclave_agent.identity import Identity, identity_folder, join, load
from exclave_agent.identity.transport import EnrollQuery, Issued
from exclave_testing.clock import START_NS
from exclave_testing.desk import PIN, WITNESS, Ca, Desk
from exclave_testing.tuf_repo import AGENT, DOMAIN, TENANT, key


def now() -> float:
    return START_NS / 1e9


@pytest.fixture
def desk() -> Desk:
    return Desk(now)


async def refused(home: Path, desk: Desk, **changes: object) -> IdentityError:
    token = desk.new_token(**changes) if changes else desk.token
    with pytest.raises(IdentityError) as caught:
        await join(home, token, desk)
    return caught.value


async def test_join_makes_an_identity(tmp_path: Path, desk: Desk) -> None:
    identity = await join(tmp_path, desk.token, desk)
    assert str(identity.spiffe) == f"spiffe://{DOMAIN}/tenant/{TENANT}/agent/{AGENT}"
    assert (identity.tenant, identity.agent, identity.trust_domain) == (TENANT, AGENT, DOMAIN)
    assert (identity.root_pin, identity.witness_vkey) == (PIN, WITNESS)
    assert identity.director_key == key("director").public_key().public_bytes_raw()
    assert identity.enroll_endpoint == desk.endpoint
    assert identity.not_after - identity.not_before == 86_400
    again = load(tmp_path)
    assert again.audit_key.private_bytes_raw() == identity.audit_key.private_bytes_raw()
    assert again.cert_pem == identity.cert_pem


async def test_everything_private_is_the_owners_alone(tmp_path: Path, desk: Desk) -> None:
    await join(tmp_path, desk.token, desk)
    folder = identity_folder(tmp_path)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    names = {"key.pem", "audit.key", "cert.pem", "ca.pem", "join.json"}
    assert {p.name for p in folder.iterdir()} == names | {".lock"}
    for name in names:
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert "secret" not in (folder / "join.json").read_text()


async def test_secrets_stay_out_of_reprs(tmp_path: Path, desk: Desk) -> None:
    identity = await join(tmp_path, desk.token, desk)
    assert "PRIVATE" not in repr(identity)
    assert "ssss" not in repr(EnrollQuery("t", "i", b"ssss", b"", "", b""))


async def test_joining_again_with_the_same_token_changes_nothing(
    tmp_path: Path, desk: Desk
) -> None:
    first = await join(tmp_path, desk.token, desk)
    second = await join(tmp_path, desk.token, desk)
    assert second.cert_pem == first.cert_pem
    assert desk.calls == ["chain", "enroll"]


async def test_another_token_does_not_replace_an_identity(tmp_path: Path, desk: Desk) -> None:
    await join(tmp_path, desk.token, desk)
    error = await refused(tmp_path, desk, token_id="f" * 32)
    assert error.code == "already_enrolled"
    assert AGENT in error.message


async def test_an_evicted_agent_comes_back_under_its_old_name_and_keys(
    tmp_path: Path, desk: Desk
) -> None:
    first = await join(tmp_path, desk.token, desk)
    desk.token = desk.new_token(token_id="f" * 32, agent="")
    second = await join(tmp_path, desk.token, desk, again=True)
    assert (second.agent, second.key_pem) == (AGENT, first.key_pem)
    assert second.audit_key.private_bytes_raw() == first.audit_key.private_bytes_raw()
    assert (second.token_id, second.cert_pem != first.cert_pem) == ("f" * 32, True)


@pytest.mark.parametrize("changes", [{"tenant": "globex"}, {"agent": "other"}])
async def test_coming_back_as_somebody_else_is_refused(
    tmp_path: Path, desk: Desk, changes: dict[str, str]
) -> None:
    await join(tmp_path, desk.token, desk)
    token = desk.new_token(token_id="f" * 32, **changes)
    with pytest.raises(IdentityError) as caught:
        await join(tmp_path, token, desk, again=True)
    assert caught.value.code == "already_enrolled"


async def test_a_lost_answer_strands_nobody(tmp_path: Path, desk: Desk) -> None:
    desk.lose_answers = 2
    for _ in range(2):
        with pytest.raises(LinkError):
            await join(tmp_path, desk.token, desk)
        with pytest.raises(IdentityError, match="join with a token"):
            load(tmp_path)
    assert (await join(tmp_path, desk.token, desk)).agent == AGENT


async def test_another_machine_cannot_reuse_a_spent_token(tmp_path: Path, desk: Desk) -> None:
    await join(tmp_path / "one", desk.token, desk)
    assert (await refused(tmp_path / "two", desk)).code == "token_spent"


async def test_unknown_token(tmp_path: Path, desk: Desk) -> None:
    assert (await refused(tmp_path, desk, secret=b"x" * 32)).code == "token_unknown"


@pytest.mark.parametrize("code", ["token_expired", "banned"])
async def test_refusals_pass_through(tmp_path: Path, desk: Desk, code: str) -> None:
    desk.failure = IdentityError("no", code=code)
    assert (await refused(tmp_path, desk)).code == code


async def test_another_coordinator_is_not_even_told_the_token(tmp_path: Path, desk: Desk) -> None:
    error = await refused(tmp_path, desk, ca_sha256="0" * 64)
    assert error.code == "ca_mismatch"
    assert desk.calls == ["chain"]


async def test_two_joins_at_once(tmp_path: Path, desk: Desk) -> None:
    results = await asyncio.gather(
        join(tmp_path, desk.token, desk), join(tmp_path, desk.token, desk), return_exceptions=True
    )
    made = [r for r in results if isinstance(r, Identity)]
    failed = [r for r in results if isinstance(r, IdentityError)]
    assert (len(made), [e.code for e in failed]) == (1, ["join_running"])


async def test_a_name_where_the_token_leaves_it_open(tmp_path: Path, desk: Desk) -> None:
    token = desk.new_token(agent="")
    assert (await join(tmp_path / "a", token, desk, agent="front-7")).agent == "front-7"
    with pytest.raises(IdentityError) as caught:
        await join(tmp_path / "b", desk.token, desk, agent="other")
    assert caught.value.code == "token_wrong_agent"


def _lie(desk: Desk, **changes: object) -> None:
    desk.alter = lambda issued: replace(issued, **changes)  # type: ignore[arg-type]  # by name


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"spiffe_id": f"spiffe://{DOMAIN}/tenant/globex/agent/{AGENT}"}, "wrong_tenant"),
        ({"spiffe_id": f"spiffe://{DOMAIN}/tenant/{TENANT}/agent/other"}, "bad_answer"),
        ({"spiffe_id": f"spiffe://{DOMAIN}/operator/root"}, "wrong_tenant"),
        ({"spiffe_id": "nonsense"}, "bad_answer"),
        ({"session_endpoint": "nonsense"}, "bad_answer"),
        ({"director_key": b"short"}, "bad_answer"),
        ({"witness_vkey": ""}, "bad_answer"),
        ({"chain": ()}, "bad_certificate"),
        ({"chain": (b"not DER",)}, "bad_certificate"),
    ],
)
async def test_a_coordinator_that_answers_badly(
    tmp_path: Path, desk: Desk, changes: dict[str, object], code: str
) -> None:
    _lie(desk, **changes)
    assert (await refused(tmp_path, desk)).code == code
    assert not (identity_folder(tmp_path) / "join.json").exists()


@pytest.mark.parametrize("what", ["key", "issuer", "name"])
async def test_a_certificate_that_is_not_ours(tmp_path: Path, desk: Desk, what: str) -> None:
    spiffe = f"spiffe://{DOMAIN}/tenant/{TENANT}/agent/{AGENT}"
    other_key = ec.generate_private_key(ec.SECP256R1()).public_key()

    def alter(issued: Issued) -> Issued:
        public = other_key if what == "key" else desk.bound
        ca = Ca(now, "other") if what == "issuer" else desk.ca
        name = spiffe.replace(AGENT, "other") if what == "name" else spiffe
        return replace(issued, chain=(ca.agent(public, name),))

    desk.alter = alter
    assert (await refused(tmp_path, desk)).code == "bad_certificate"


# --- reading it back ------------------------------------------------------------------------


async def test_exposed_key_is_not_used(tmp_path: Path, desk: Desk) -> None:
    identity = await join(tmp_path, desk.token, desk)
    identity.key_path.chmod(0o644)
    with pytest.raises(IdentityError) as caught:
        load(tmp_path)
    assert caught.value.code == "identity_exposed"
    assert "chmod 600" in caught.value.message


def test_not_enrolled(tmp_path: Path) -> None:
    with pytest.raises(IdentityError) as caught:
        load(tmp_path)
    assert caught.value.code == "not_enrolled"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("join.json", b"{"),
        ("join.json", b'{"schema": "other"}'),
        ("join.json", b'{"schema": "exclave.identity/v1"}'),
        ("key.pem", b"no key"),
        ("audit.key", b"no key"),
        ("cert.pem", b"no certificate"),
        ("ca.pem", b"no certificate"),
    ],
)
async def test_damaged(tmp_path: Path, desk: Desk, name: str, content: bytes) -> None:
    await join(tmp_path, desk.token, desk)
    (identity_folder(tmp_path) / name).write_bytes(content)
    with pytest.raises(IdentityError) as caught:
        load(tmp_path)
    assert caught.value.code == "identity_damaged"


async def test_a_certificate_of_another_key_is_found(tmp_path: Path, desk: Desk) -> None:
    one = await join(tmp_path / "one", desk.token, desk)
    desk.spent_by = None
    two = await join(tmp_path / "two", desk.token, desk)
    one.cert_path.write_bytes(two.cert_pem)
    with pytest.raises(IdentityError, match="does not belong"):
        load(tmp_path / "one")


async def test_record_with_a_malformed_name(tmp_path: Path, desk: Desk) -> None:
    await join(tmp_path, desk.token, desk)
    file = identity_folder(tmp_path) / "join.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "spiffe_id": "spiffe://x"}))
    with pytest.raises(IdentityError) as caught:
        load(tmp_path)
    assert caught.value.code == "identity_damaged"
