"""Joining, renewing, recovering: each refusal is its own, and nothing strands a node."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from exclave_coordinator.fleet.certificates import recovery_message
from exclave_protocol.pb import admin_pb2, audit_pb2, enrollment_pb2
from exclave_testing.coordinator import (
    TIMEOUT,
    Member,
    RunningCoordinator,
    chain_pem,
    csr,
    key_pem,
    new_key,
    refused,
)


async def test_enroll_gives_a_certificate_that_opens_the_mtls_port(
    centre: RunningCoordinator,
) -> None:
    await centre.tenant("acme")
    member = await centre.enroll("acme", "north")
    assert member.answer.spiffe_id == "spiffe://example.org/tenant/acme/agent/north"
    certificate = x509.load_der_x509_certificate(member.answer.certificate_chain[0])
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [member.answer.spiffe_id]
    life = certificate.not_valid_after_utc.timestamp() - centre.clock.now()
    assert 86_390 <= life <= 86_400
    head = await member.audit.Head(audit_pb2.HeadRequest(epoch=1), timeout=TIMEOUT)
    assert (head.size, head.witnessed_size, head.checkpoint) == (0, 0, b"")


async def test_unknown_token_and_wrong_secret_look_the_same(centre: RunningCoordinator) -> None:
    await centre.tenant("acme")
    token = await centre.token("acme")
    wrong = admin_pb2.CreateTokenResponse(token_id=token.token_id, secret=bytes(32))
    unknown = admin_pb2.CreateTokenResponse(token_id="0" * 32, secret=token.secret)
    for bad in (wrong, unknown):
        status, code, _ = await refused(
            centre.enrollment.Enroll(centre.request("acme", bad, new_key()), timeout=TIMEOUT)
        )
        assert (status, code) == ("UNAUTHENTICATED", "token_unknown")


async def test_token_is_spent_by_one_key_and_repeats_for_it(centre: RunningCoordinator) -> None:
    await centre.tenant("acme")
    token, key = await centre.token("acme"), new_key()
    request = centre.request("acme", token, key)
    first = await centre.enrollment.Enroll(request, timeout=TIMEOUT)
    again = await centre.enrollment.Enroll(request, timeout=TIMEOUT)
    assert again.spiffe_id == first.spiffe_id
    status, code, _ = await refused(
        centre.enrollment.Enroll(centre.request("acme", token, new_key()), timeout=TIMEOUT)
    )
    assert (status, code) == ("PERMISSION_DENIED", "token_spent")


async def test_expired_and_revoked_tokens(centre: RunningCoordinator) -> None:
    await centre.tenant("acme")
    revoked = await centre.token("acme")
    await centre.admin.RevokeToken(
        admin_pb2.RevokeTokenRequest(token_id=revoked.token_id), timeout=TIMEOUT
    )
    expired = await centre.token("acme", ttl=60)
    request = centre.request("acme", revoked, new_key())
    assert (await refused(centre.enrollment.Enroll(request)))[:2] == (
        "PERMISSION_DENIED",
        "token_revoked",
    )
    centre.clock.offset = 61
    request = centre.request("acme", expired, new_key())
    assert (await refused(centre.enrollment.Enroll(request)))[:2] == (
        "PERMISSION_DENIED",
        "token_expired",
    )


async def test_token_of_another_tenant_or_agent(centre: RunningCoordinator) -> None:
    await centre.tenant("acme")
    await centre.tenant("other")
    token = await centre.token("acme", agent="north")
    request = centre.request("other", token, new_key())
    assert (await refused(centre.enrollment.Enroll(request)))[1] == "wrong_tenant"
    request = centre.request("acme", token, new_key(), agent="south")
    assert (await refused(centre.enrollment.Enroll(request)))[1] == "token_agent"
    answer = await centre.enrollment.Enroll(centre.request("acme", token, new_key()))
    assert answer.spiffe_id.endswith("/agent/north")


async def test_an_active_agents_name_cannot_be_taken(centre: RunningCoordinator) -> None:
    await centre.tenant("acme")
    await centre.enroll("acme", "north")
    request = centre.request("acme", await centre.token("acme"), new_key(), agent="north")
    assert (await refused(centre.enrollment.Enroll(request)))[:2] == (
        "ALREADY_EXISTS",
        "name_taken",
    )


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"csr": b""}, "csr"),
        ({"csr": b"\x30\x03abc"}, "csr"),
        ({"csr": bytes(5000)}, "csr"),
        ({"csr": csr(rsa.generate_private_key(65537, 2048))}, "csr_key"),
        ({"csr": csr(ec.generate_private_key(ec.SECP384R1()))}, "csr_key"),
        ({"agent": "North!"}, "name"),
        ({"agent": "../north"}, "name"),
        ({"audit_public_key": b"short"}, "invalid"),
    ],
)
async def test_malformed_enrollments(
    centre: RunningCoordinator, change: dict[str, Any], code: str
) -> None:
    await centre.tenant("acme")
    request = centre.request("acme", await centre.token("acme"), new_key())
    for name, value in change.items():
        setattr(request, name, value)
    assert (await refused(centre.enrollment.Enroll(request)))[:2] == ("INVALID_ARGUMENT", code)


async def test_a_csr_with_a_broken_signature_proves_nothing(centre: RunningCoordinator) -> None:
    await centre.tenant("acme")
    request = centre.request("acme", await centre.token("acme"), new_key())
    request.csr = request.csr[:-1] + bytes([request.csr[-1] ^ 1])
    status, code, _ = await refused(centre.enrollment.Enroll(request))
    assert status == "INVALID_ARGUMENT"
    assert code in ("csr", "csr_signature")


async def test_renew_with_the_same_and_with_a_new_key(centre: RunningCoordinator) -> None:
    await centre.tenant("acme")
    member = await centre.enroll("acme", "north")
    same = await member.identity.Renew(
        enrollment_pb2.RenewRequest(csr=csr(member.key)), timeout=TIMEOUT
    )
    assert same.spiffe_id == member.answer.spiffe_id
    key = new_key()
    answer = await member.identity.Renew(enrollment_pb2.RenewRequest(csr=csr(key)))
    renewed = centre.member("acme", key, member.audit_key, member.token, answer)
    await renewed.audit.Head(audit_pb2.HeadRequest(epoch=1), timeout=TIMEOUT)
    # The certificate before runs on, but only the one before.
    await member.audit.Head(audit_pb2.HeadRequest(epoch=1), timeout=TIMEOUT)
    await renewed.identity.Renew(enrollment_pb2.RenewRequest(csr=csr(new_key())))
    assert (await refused(member.audit.Head(audit_pb2.HeadRequest(epoch=1))))[:2] == (
        "PERMISSION_DENIED",
        "key_replaced",
    )


def _recovery(member: Member, timestamp: int, key: Any = None) -> enrollment_pb2.RecoverRequest:
    request = csr(member.key)
    message = recovery_message(member.tenant, member.name, timestamp, request)
    return enrollment_pb2.RecoverRequest(
        tenant=member.tenant,
        agent=member.name,
        csr=request,
        timestamp=timestamp,
        proof=(key or member.key).sign(message, ec.ECDSA(hashes.SHA256())),
    )


async def test_recover_after_the_certificate_expired(centre: RunningCoordinator) -> None:
    await centre.tenant("acme")
    member = await centre.enroll("acme", "north")
    await member.audit.Head(audit_pb2.HeadRequest(epoch=1), timeout=TIMEOUT)
    centre.clock.offset = 3 * 86_400
    assert (await refused(member.audit.Head(audit_pb2.HeadRequest(epoch=1))))[:2] == (
        "UNAUTHENTICATED",
        "certificate_expired",
    )
    now = centre.clock.now()
    answer = await centre.enrollment.Recover(_recovery(member, now), timeout=TIMEOUT)
    assert answer.spiffe_id == member.answer.spiffe_id
    assert answer.not_after > now
    for skew, status in ((299, None), (-299, None), (302, "clock"), (-302, "clock")):
        call = centre.enrollment.Recover(_recovery(member, centre.clock.now() + skew))
        if status is None:
            await call
        else:
            assert (await refused(call))[:2] == ("FAILED_PRECONDITION", "clock_skew")
    forged = _recovery(member, now, new_key())
    assert (await refused(centre.enrollment.Recover(forged)))[:2] == (
        "UNAUTHENTICATED",
        "bad_proof",
    )
    forged = _recovery(member, now)
    forged.agent = "south"
    assert (await refused(centre.enrollment.Recover(forged)))[0] == "NOT_FOUND"


async def test_banned_and_evicted_agents_get_no_certificate(centre: RunningCoordinator) -> None:
    await centre.tenant("acme")
    banned, evicted = await centre.enroll("acme", "north"), await centre.enroll("acme", "south")
    await centre.admin.BanAgent(admin_pb2.AgentRequest(tenant="acme", agent="north", reason="x"))
    await centre.admin.EvictAgent(admin_pb2.AgentRequest(tenant="acme", agent="south"))
    for member, code in ((banned, "banned"), (evicted, "evicted")):
        renew = enrollment_pb2.RenewRequest(csr=csr(member.key))
        assert (await refused(member.identity.Renew(renew)))[:2] == ("PERMISSION_DENIED", code)
        recover = _recovery(member, centre.clock.now())
        assert (await refused(centre.enrollment.Recover(recover)))[1] == code
        again = centre.request("acme", member.token, member.key)
        assert (await refused(centre.enrollment.Enroll(again)))[1] == code
    # Back with a new token: the evicted one may, the banned one may not, under any key.
    back = centre.request("acme", await centre.token("acme"), new_key(), agent="south")
    assert (await centre.enrollment.Enroll(back)).spiffe_id.endswith("/south")
    back = centre.request("acme", await centre.token("acme"), new_key(), agent="north")
    assert (await refused(centre.enrollment.Enroll(back)))[1] == "banned"
    # An eviction does not soften a ban.
    shown = await centre.admin.EvictAgent(admin_pb2.AgentRequest(tenant="acme", agent="north"))
    assert shown.state == admin_pb2.Agent.State.BANNED
    # The evicted agent's former certificate stays worthless after another key joined.
    assert (await refused(evicted.audit.Head(audit_pb2.HeadRequest(epoch=1))))[1] == "key_replaced"


async def test_the_enrollment_port_presents_its_ca_for_pinning(
    centre: RunningCoordinator,
) -> None:
    await centre.tenant("acme")
    token = await centre.token("acme")
    assert chain_pem([token.ca_certificate]) == centre.ca
    assert token.enroll_endpoint == centre.up.enroll
    assert key_pem(new_key()).startswith(b"-----BEGIN")
