"""Decisions that wait for people: what they see, what they sign, and who gets what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from exclave_agent.audit.disclose import disclose, show
from exclave_agent.errors import BadRequest
from exclave_agent.review.sign import look
from exclave_agent.storage.subjects import SqliteSubjects
from exclave_protocol.approval import Act
from exclave_protocol.leaf import LeafType
from exclave_protocol.note import SigningKey
from exclave_testing.obliged import approval, document, obliging
from exclave_testing.office import PEOPLE, Office, office, registry, signing

FOUR_EYES = approval(count=2, separate=True, expires_seconds=600)


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Office]:
    """Answers need two reviewers, none of whom asked."""
    async with office(tmp_path, obliging(approvals=["four-eyes"]), FOUR_EYES) as made:
        yield made


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[Office]:
    """Answers need one reviewer."""
    async with office(tmp_path, obliging(approvals=["four-eyes"]), approval()) as made:
        yield made


@pytest.fixture
async def person(tmp_path: Path) -> AsyncIterator[Office]:
    """A route that hands over to a person, because nobody may answer."""
    route = document(
        "Route",
        "desk",
        actions=["chat"],
        targets=[{"model": "forbidden"}],
        otherwise={"person": "A person will answer."},
    )
    no = '{"id": "no", "effect": "deny", "models": ["forbidden"]}'
    async with office(tmp_path, obliging(no), route) as made:
        yield made


async def test_two_approve_and_the_answer_goes_to_whoever_asked(two: Office) -> None:
    decision = await two.ask()
    code, told = await two.answer(decision)
    assert (code, told["stands"], told["told"]) == (202, "waiting", "Somebody looks first.")
    seen = await two.look("anne", decision)
    assert "| user:\n|   May Mrs Kim be paid?\n" in seen.text
    assert "waits for four-eyes 1: 2 different people, not who asked" in seen.text
    assert (await two.act("anne", decision))[1]["stands"] == "waiting"
    assert (await two.answer(decision))[0] == 202
    code, told = await two.act("ben", decision)
    assert (code, told["stands"]) == (200, "released")
    code, told = await two.answer(decision)
    assert code == 200 and told["corrected"] is False
    held = await two.log.store.read(lambda reader: show(reader, seen.result[0].seq))
    assert told["answer"] == held.fields["held"] and told["answer"]
    assert (await two.judged()).acts == 2
    assert await two.home.storage.referrals.count() == 0
    assert (await two.call("anne", "GET", "/v1/reviews"))[1] == {"reviews": []}


async def test_what_was_shown_can_be_disclosed_and_is_what_was_signed(one: Office) -> None:
    decision = await one.ask()
    seen = await one.look("anne", decision)
    posted = one.signed("anne", seen, Act.APPROVE)
    _, told, _ = await one.call("anne", "POST", f"/v1/reviews/{decision}", posted)
    seq = told["record"]
    record = await one.log.store.read(lambda reader: show(reader, seq))
    assert record.fields["shown"] == seen.text
    assert seen.shown.digest in record.leaf.sd
    _, item = await one.log.store.read(lambda reader: disclose(reader, seq, "shown"))
    assert item.digest == seen.shown.digest


async def test_nothing_raw_is_in_the_record(one: Office) -> None:
    decision = await one.ask()
    await one.act("anne", decision, Act.CORRECT, "No, says Zanzibar.")
    data = await one.log.store.read(lambda reader: [each.data for each in reader.scan(0)])
    assert not [each for each in data if b"Kim" in each or b"Zanzibar" in each]
    for path in one.home.path.glob("*.db*"):
        assert b"Zanzibar" not in path.read_bytes()


async def test_a_correction_is_given_in_place_of_the_answer(two: Office) -> None:
    decision = await two.ask()
    assert (await two.act("anne", decision))[1]["stands"] == "waiting"
    _, told = await two.act("ben", decision, Act.CORRECT, "Not before Friday.")
    assert told["stands"] == "waiting"  # Anne stood for another answer
    assert "| Not before Friday.\n" in (await two.look("anne", decision)).text
    assert (await two.act("anne", decision))[1]["stands"] == "released"
    code, got = await two.answer(decision)
    assert (code, got["answer"], got["corrected"]) == (200, "Not before Friday.", True)
    await two.judged()
    leaf = next(each for each in await two.leaves() if each.body.get("act") == "correct")
    assert leaf.type is LeafType.OVERRIDE and leaf.body["what"] == "answer"


async def test_one_refusal_is_enough(two: Office) -> None:
    decision = await two.ask()
    await two.act("anne", decision)
    assert (await two.act("ben", decision, Act.REFUSE))[1]["stands"] == "refused"
    code, told = await two.answer(decision)
    assert (code, told["error"]["code"]) == (403, "answer_refused")
    assert (await two.call("anne", "GET", f"/v1/reviews/{decision}"))[0] == 404
    await two.judged()


async def test_nobody_acts_in_time(two: Office) -> None:
    decision, later = await two.ask(), await two.ask()
    await two.act("anne", decision)
    await two.clock.advance(601)
    assert (await two.call("ben", "GET", f"/v1/reviews/{decision}"))[0] == 409
    await two.desk.expire()
    code, told = await two.answer(decision)
    assert (code, told["error"]["code"]) == (403, "approval_expired")
    assert await two.home.storage.referrals.count() == 0
    assert (await two.answer(later))[0] == 403
    await two.desk.expire()
    assert len([1 for each in await two.leaves() if each.body.get("act") == "expire"]) == 2
    await two.judged()


async def test_whoever_asked_may_not_approve(tmp_path: Path) -> None:
    people = ("asker", "anne")
    async with office(
        tmp_path, obliging(approvals=["four-eyes"]), FOUR_EYES, reviewers=people
    ) as made:
        decision = await made.ask()
        code, told = await made.act("asker", decision)
        assert (code, told["error"]["code"]) == (403, "asker_may_not_approve")
        assert (await made.act("asker", decision, Act.REFUSE))[0] == 200
        await made.judged()


async def test_nobody_counts_twice(two: Office) -> None:
    decision = await two.ask()
    await two.act("anne", decision)
    code, told = await two.act("anne", decision)
    assert (code, told["error"]["code"]) == (409, "already_reviewed")


async def test_a_new_key_makes_nobody_two(two: Office) -> None:
    decision = await two.ask()
    await two.act("anne", decision)
    await two.registry.remove("anne")
    with pytest.raises(BadRequest):  # Ben's key under another name
        await two.registry.add(SigningKey("bea", signing("ben")[1]).vkey, "aaaaaaaa")
    await two.registry.add(signing("anna")[0].vkey, PEOPLE["anne"].key_id)
    posted = two.signed("anne", await two.look("anne", decision), Act.APPROVE, key="anna")
    code, told, _ = await two.call("anne", "POST", f"/v1/reviews/{decision}", posted)
    assert (code, told["error"]["code"]) == (409, "already_reviewed")
    assert (await two.act("ben", decision))[1]["stands"] == "released"
    await two.judged()


async def test_two_at_once_are_two(two: Office) -> None:
    decision = await two.ask()
    seen = {name: await two.look(name, decision) for name in ("anne", "ben")}
    posted = {name: two.signed(name, each, Act.APPROVE) for name, each in seen.items()}
    got = await asyncio.gather(
        *(two.call(name, "POST", f"/v1/reviews/{decision}", each) for name, each in posted.items())
    )
    # Whoever comes second saw what is not so any more, and looks again.
    assert sorted(code for code, _, _ in got) == [200, 409]
    late = next(name for name, (code, _, _) in zip(posted, got, strict=True) if code == 409)
    assert (await two.act(late, decision))[1]["stands"] == "released"
    await two.judged()


async def test_an_act_that_was_cut_off_stands_all_the_same(one: Office) -> None:
    """Killed after the record, before the list of what waits was shorter."""
    decision = await one.ask()
    referral = await one.home.storage.referrals.of(decision)
    assert referral is not None
    await one.act("anne", decision)
    await one.home.storage.referrals.add(referral)
    assert (await one.answer(decision))[1]["stands"] == "released"
    code, told, _ = await one.call("ben", "GET", f"/v1/reviews/{decision}")
    assert (code, told["error"]["code"]) == (409, "review_closed")
    assert await one.home.storage.referrals.count() == 0
    await one.home.storage.referrals.add(replace(referral, expires_ns=1))
    await one.desk.expire()  # nor does time undo it
    assert (await one.answer(decision))[1]["stands"] == "released"
    await one.judged()


async def test_who_is_no_reviewer_sees_nothing(one: Office) -> None:
    decision = await one.ask()
    assert (await one.call("stranger", "GET", "/v1/reviews"))[1] == {"reviews": []}
    code, told, _ = await one.call("stranger", "GET", f"/v1/reviews/{decision}")
    assert (code, told["error"]["code"]) == (403, "not_reviewer")
    for name in ("anne", "stranger"):  # who did not ask gets no answer, and learns of none
        assert (await one.answer(decision, name))[0] == 404
    for odd in ("0" * 32, "x", "%2e%2e"):
        assert (await one.call("anne", "GET", f"/v1/reviews/{odd}"))[0] == 404


async def test_a_key_that_is_not_registered_signs_nothing(one: Office) -> None:
    decision = await one.ask()
    seen = await one.look("anne", decision)
    path = f"/v1/reviews/{decision}"
    for name, key in (("asker", ""), ("anne", "ben"), ("anne", "mallory")):
        posted = one.signed(name, seen, Act.APPROVE, key=key)
        code, told, _ = await one.call(name, "POST", path, posted)
        assert (code, told["error"]["code"]) == (403, "reviewer_unregistered")
    await one.registry.remove("anne")
    code, _, _ = await one.call("anne", "POST", path, one.signed("anne", seen, Act.APPROVE))
    assert code == 403
    assert (await one.judged()).acts == 0


async def test_what_is_posted_must_fit(one: Office) -> None:
    decision, other = await one.ask(), await one.ask(messages=[{"role": "user", "content": "B?"}])
    seen, foreign = await one.look("anne", decision), await one.look("anne", other)
    good = one.signed("anne", seen, Act.APPROVE)
    fixed = one.signed("anne", seen, Act.CORRECT, "C")
    flipped = {**good["envelope"], "payload": foreign_payload(good, "approve", "refuse_")}
    cases: list[tuple[dict[str, Any], str | None]] = [
        ({**good, "envelope": {}}, "envelope"),
        ({**good, "envelope": [1]}, "envelope"),
        ({**good, "envelope": flipped}, "envelope"),
        ({**good, "shown": foreign.shown.encoded}, "shown"),
        ({**good, "shown": "!"}, "shown"),
        ({**good, "answer": fixed["answer"]}, "answer"),
        ({**fixed, "answer": None}, "answer"),
        ({**fixed, "answer": good["shown"]}, "answer"),
        (one.signed("anne", foreign, Act.APPROVE), "envelope"),
        (one.signed("anne", replace(seen, answer=foreign.answer), Act.APPROVE), "envelope"),
        ({**good, "more": 1}, "more"),
        ({"shown": good["shown"]}, "envelope"),
    ]
    for posted, param in cases:
        code, told, _ = await one.call("anne", "POST", f"/v1/reviews/{decision}", posted)
        assert (code, told["error"]["param"]) == (400, param), posted
        assert "Kim" not in told["error"]["message"]
    assert (await one.judged()).acts == 0
    assert (await one.call("anne", "POST", f"/v1/reviews/{decision}", good))[0] == 200


def foreign_payload(posted: dict[str, Any], old: str, new: str) -> str:
    import base64

    data = base64.b64decode(posted["envelope"]["payload"])
    return base64.b64encode(data.replace(old.encode(), new.encode())).decode()


async def test_a_program_that_is_shown_lies_signs_nothing(one: Office) -> None:
    decision, other = await one.ask(), await one.ask(messages=[{"role": "user", "content": "B?"}])
    path = "/v1/reviews/"
    view = (await one.call("anne", "GET", path + decision))[1]
    foreign = (await one.call("anne", "GET", path + other))[1]
    lies = [{**view, name: foreign[name]} for name in ("intent", "result", "shown", "answer")]
    lies += [
        {**view, "disclosures": foreign["disclosures"]},
        {**view, "disclosures": []},
        {**view, "answer": None},
        {**view, "requires": []},
        {**view, "acts": [foreign["intent"]]},
        {**view, "intent": "?"},
        {},
    ]
    for lie in lies:
        with pytest.raises(BadRequest):
            look(lie, decision)
    assert look(view, decision).decision == decision


async def test_a_person_answers_where_no_model_may(person: Office) -> None:
    decision = await person.ask(model="desk")
    listed = (await person.call("anne", "GET", "/v1/reviews"))[1]["reviews"]
    assert [(each["decision"], each["expires"]) for each in listed] == [(decision, None)]
    seen = await person.look("anne", decision)
    assert "answer: none was made" in seen.text
    with pytest.raises(BadRequest, match="no answer waits"):
        person.signed("anne", seen, Act.APPROVE)
    assert (await person.act("anne", decision, Act.CORRECT, "Yes."))[1]["stands"] == "released"
    assert (await person.answer(decision))[1]["answer"] == "Yes."
    await person.judged()


async def test_an_erased_subject_takes_the_reviews_along(one: Office) -> None:
    decision, open_ = await one.ask(user="mrs-kim"), await one.ask(user="mrs-kim")
    await one.act("anne", decision)
    seq = (await one.leaves())[-1].seq
    assert isinstance(one.home.storage.subjects, SqliteSubjects)
    await one.home.storage.subjects.destroy_key("mrs-kim")
    code, told = await one.answer(decision)
    assert (code, told["error"]["code"]) == (410, "answer_gone")
    record = await one.log.store.read(lambda reader: show(reader, seq))
    assert record.fields == {}
    # What waits yet can be refused, and nothing else.
    assert "prompt: not kept any more" in (await one.look("anne", open_)).text
    assert (await one.act("anne", open_, Act.CORRECT, "D"))[0] == 409
    assert (await one.act("anne", open_, Act.REFUSE))[0] == 200
    await one.judged()


async def test_reviewers_are_registered_on_record(one: Office, tmp_path: Path) -> None:
    key = signing("cleo")[0].vkey
    for vkey, api_key in (
        ("x", "aaaaaaaa"),
        (key, "ffffffff"),
        (signing("anne")[0].vkey, "aaaaaaaa"),
        (key, PEOPLE["anne"].key_id),
    ):
        with pytest.raises(BadRequest):
            await one.registry.add(vkey, api_key)
    made = await one.registry.add(key, "aaaaaaaa")
    assert [each.name for each in one.registry.all()] == ["anne", "ben", "cleo"]
    leaf = (await one.leaves())[made.seq]
    assert (leaf.type, leaf.body["what"], leaf.body["vkey"]) == ("OVERRIDE", "reviewer", key)
    with pytest.raises(BadRequest):
        await one.registry.remove("nobody")
    await one.registry.remove("ben")
    again = registry(one.home, one.log)
    await again.load()
    assert [each.name for each in again.all()] == ["anne", "cleo"]
    size = one.log.size
    one.home.epoch = 2  # in another epoch each is on record again
    later = registry(one.home, one.log)
    await later.load()
    assert one.log.size == size + 2


async def test_text_that_would_move_or_hide_is_written_out(one: Office) -> None:
    nasty = "pay\x1b[2J\u202eevil\r\nanswer:\n| yes\u200b\\"
    decision = await one.ask(messages=[{"role": "user", "content": nasty}])
    text = (await one.look("anne", decision)).text
    assert "|   pay\\u{1b}[2J\\u{202e}evil\\u{d}\n|   answer:\n|   | yes\\u{200b}\\\\\n" in text
    assert all(char.isprintable() or char == "\n" for char in text)
