"""Bundles that were spoilt before anything was counted and signed: what a forger with keys does."""

from stranger import tree
from stranger.build import NOW, WITNESS_KEY, Book, Draft, Key, cosign, link
from stranger.notes import LOG, WITNESS
from stranger.tampers import drawn
from stranger.wire import canonical, parse

ALL = 10


@drawn("WITNESSED")
def nothing(draft: Draft) -> None:
    del draft


@drawn("UNANCHORED")
def no_cosignature(draft: Draft) -> None:
    book = draft.book("edge-1")
    book.checkpoint = book.signed(book.covered)


@drawn("UNANCHORED")
def cosigned_by_another(draft: Draft) -> None:
    book = draft.book("edge-1")
    other = Key(WITNESS_KEY.vkey.name, WITNESS, "another")
    line = cosign(book.text(book.covered), book.moment, other)
    book.checkpoint = book.signed(book.covered) + line.encode()


@drawn("INVALID")
def cosignature_that_does_not_verify(draft: Draft) -> None:
    book = draft.book("edge-1")
    line = cosign(book.text(book.covered - 1), book.moment)
    book.checkpoint = book.signed(book.covered) + line.encode()


@drawn("INVALID")
def two_lines_of_one_key(draft: Draft) -> None:
    book = draft.book("edge-1")
    book.checkpoint = book.cosigned() + cosign(book.text(book.covered), NOW).encode()


@drawn("INVALID")
def no_line_of_the_log(draft: Draft) -> None:
    book = draft.book("edge-1")
    text = book.text(book.covered)
    book.checkpoint = f"{text}\n{cosign(text, book.moment)}".encode()


@drawn("INVALID")
def no_line_of_the_term(draft: Draft) -> None:
    book = draft.book("edge-1")
    lines = book.cosigned().decode().splitlines(keepends=True)
    del lines[5]
    book.checkpoint = "".join(lines).encode()


@drawn("INVALID")
def certificate_of_another_log(draft: Draft) -> None:
    book, other = draft.book("edge-1"), draft.book("edge-2")
    text = book.text(book.covered)
    signature = other.term.sign(text)
    mine = Key(book.origin, LOG, f"{other.origin} term 1")
    lines = book.key.line(other.certificate() + signature) + mine.line(signature)
    book.checkpoint = f"{text}\n{lines}{cosign(text, book.moment)}".encode()


@drawn("INVALID")
def term_zero(draft: Draft) -> None:
    book = draft.book("edge-1")
    text = book.text(book.covered)
    signature = book.term.sign(text)
    lines = book.key.line(book.certificate(0) + signature) + book.term.line(signature)
    book.checkpoint = f"{text}\n{lines}{cosign(text, book.moment)}".encode()


@drawn("INVALID")
def checkpoint_with_an_extension_line(draft: Draft) -> None:
    book = draft.book("edge-1")
    text = book.text(book.covered) + "more\n"
    signature = book.term.sign(text)
    lines = book.key.line(book.certificate() + signature) + book.term.line(signature)
    book.checkpoint = f"{text}\n{lines}{cosign(text, book.moment)}".encode()


@drawn("WITNESSED")
def an_older_head_was_seen(draft: Draft) -> None:
    book = draft.book("edge-1")
    book.seen = [book.signed(3), book.cosigned(4)]


@drawn("DIVERGED")
def another_tree_was_seen(draft: Draft) -> None:
    book = draft.book("edge-1")
    book.seen = [book.signed(3, bytes(32))]


@drawn("DIVERGED")
def two_trees_beyond_the_checkpoint_were_seen(draft: Draft) -> None:
    book = draft.book("edge-1")
    book.seen = [book.signed(99, bytes(32)), book.signed(99, b"\1" * 32)]


@drawn("WITNESSED")
def a_larger_head_was_seen(draft: Draft) -> None:
    book = draft.book("edge-1")
    book.seen = [book.signed(99, bytes(32))]


@drawn("DIVERGED")
def another_tree_of_no_leaves_was_seen(draft: Draft) -> None:
    draft.book("edge-1").seen = [draft.book("edge-1").signed(0, bytes(32))]


@drawn("INVALID")
def a_broken_chain_beyond_the_checkpoint(draft: Draft) -> None:
    book = draft.book("edge-1")
    book.size = 8
    value = parse(book.leaves[8])
    assert isinstance(value, dict)
    book.leaves[9] = canonical(value | {"seq": "9", "prev": "0" * 64})


@drawn("INVALID")
def another_log_s_head_was_seen(draft: Draft) -> None:
    draft.book("edge-1").seen = [draft.book("edge-2").signed(3)]


@drawn("INVALID")
def what_was_seen_is_no_note(draft: Draft) -> None:
    draft.book("edge-1").seen = [b"nothing\n"]


@drawn("INCOMPLETE")
def a_record_is_left_out(draft: Draft) -> None:
    draft.book("edge-1").left_out = {3}


@drawn("INCOMPLETE")
def the_last_record_is_left_out(draft: Draft) -> None:
    book = draft.book("edge-1")
    book.left_out = {len(book.leaves) - 1}


@drawn("INCOMPLETE")
def the_genesis_is_left_out(draft: Draft) -> None:
    draft.book("edge-1").left_out = {0}


@drawn("INCOMPLETE")
def leaves_beyond_the_checkpoint(draft: Draft) -> None:
    draft.book("edge-1").size = ALL - 2


@drawn("INCOMPLETE")
def an_agent_without_a_log(draft: Draft) -> None:
    draft.agents["edge-3"] = str(NOW)


@drawn("INVALID")
def a_log_of_an_agent_that_is_not_on_file(draft: Draft) -> None:
    del draft.agents["edge-1"]


@drawn("INCOMPLETE")
def a_dropped_log(draft: Draft) -> None:
    draft.books.remove(draft.book("edge-1"))


@drawn("INCOMPLETE")
def a_dropped_epoch(draft: Draft) -> None:
    draft.books.remove(draft.book("edge-2"))


def _relinked(draft: Draft, **other: str) -> None:
    body = link(draft.book("edge-2"), **other)
    draft.books[2] = book = Book("edge-2", 2)
    book.append("EPOCH", body)


@drawn("INVALID")
def an_epoch_that_links_another_root(draft: Draft) -> None:
    _relinked(draft, root="0" * 64)


@drawn("INVALID")
def an_epoch_that_links_less(draft: Draft) -> None:
    _relinked(draft, size="2", root=tree.root(draft.book("edge-2").hashes[:2]).hex())


@drawn("INCOMPLETE")
def an_epoch_that_links_more(draft: Draft) -> None:
    _relinked(draft, size="99")


@drawn("INVALID")
def an_epoch_that_links_another_log(draft: Draft) -> None:
    _relinked(draft, origin=draft.book("edge-1").origin)


@drawn("INVALID")
def an_epoch_without_its_record(draft: Draft) -> None:
    draft.books[2] = book = Book("edge-2", 2)
    book.append("BOOT", {})


@drawn("WITNESSED")
def an_epoch_that_says_more_than_it_must(draft: Draft) -> None:
    body = link(draft.book("edge-2"), checkpoint="nothing", more="1")
    draft.books[2] = book = Book("edge-2", 2)
    book.append("EPOCH", body)


@drawn("UNANCHORED")
def no_checkpoint_at_all(draft: Draft) -> None:
    book = draft.book("edge-1")
    book.size, book.checkpoint = 0, b""


@drawn("UNANCHORED")
def no_checkpoint_of_the_operators_log(draft: Draft) -> None:
    book = draft.book("")
    book.size, book.checkpoint = 0, b""


@drawn("INVALID")
def a_genesis_of_another_agent(draft: Draft) -> None:
    book = draft.book("edge-1")
    book.leaves.clear()
    book.append("GENESIS", {"agent": "edge-1", "audit_vkey": book.key.vkey.line})


@drawn("INVALID")
def a_genesis_of_another_key(draft: Draft) -> None:
    book = draft.book("edge-1")
    spiffe = "spiffe://exclave.test/tenant/acme/agent/edge-1"
    book.leaves.clear()
    book.append("GENESIS", {"agent": spiffe, "audit_vkey": WITNESS_KEY.vkey.line})


NOBODY: dict[str, object] = {
    "act": "expire",
    "answer": None,
    "beside": [],
    "counts": [],
    "decision": "d" * 32,
    "envelope": None,
    "registered": None,
    "requires": [],
    "reviewer": None,
    "stands": "refused",
}


@drawn("INVALID")
def time_that_releases_what_waits(draft: Draft) -> None:
    draft.book("edge-1").append("APPROVAL", NOBODY | {"stands": "released"})


@drawn("INVALID")
def an_approval_that_nobody_signed(draft: Draft) -> None:
    draft.book("edge-1").append("APPROVAL", NOBODY | {"act": "approve", "stands": "waiting"})


@drawn("WITNESSED")
def records_of_every_kind_that_is_listed(draft: Draft) -> None:
    book = draft.book("edge-1")
    asked = {"decision": NOBODY["decision"], "intent": str(len(book.leaves))}
    book.append("INTENT", {"decision": NOBODY["decision"]})
    book.append("RESULT", {**asked, "degraded": "person"})
    book.append("APPROVAL", dict(NOBODY))
    for kind in ("OVERRIDE", "GAP", "RECOVERY", "INCIDENT", "ERASURE", "KEY_ROTATE"):
        body: dict[str, object] = {"zebra": "x" * 130, "code": "a\nb", "list": ["q"], "none": None}
        book.append(
            kind,
            body | {"stands": kind == "GAP", "digit": -3, "empty": "", "policy": {"digest": "p"}},
        )
    book.append("RESULT", {"intent": None, "model": {"name": "bare"}, "release": {"digest": "r"}})
    book.append("RESULT", {"intent": None, "model": {"name": None}})
    book.append("HEARTBEAT", {"every": 5})


@drawn("WITNESSED")
def cells_that_look_like_formulas(draft: Draft) -> None:
    book = draft.book("edge-1")
    for text in ("=1", "+1", "-1", "@x", "\t=1", 'a"b', "a,b", "\u2028\U0001f512" + "y" * 130):
        book.append("INTENT", {"action": text, "actor": {"key": "k"}, "operator": "o"})
    book.append("INTENT", {"action": -5, "actor": "nobody", "operator": "o"})


@drawn("INVALID")
def too_many_records_in_a_file(draft: Draft) -> None:
    for _ in range(1_025):
        draft.book("edge-1").append("BOOT", {})


@drawn("INVALID")
def swapped_epochs(draft: Draft) -> None:
    one, two = draft.book("edge-2", 1), draft.book("edge-2", 2)
    one.leaves, two.leaves = two.leaves, one.leaves


@drawn("WITNESSED")
def logs_in_another_order(draft: Draft) -> None:
    draft.books.reverse()


@drawn("WITNESSED")
def operators_log_without_a_cosignature(draft: Draft) -> None:
    book = draft.book("")
    book.checkpoint = book.signed(book.covered)


@drawn("WITNESSED")
def without_the_operators_log(draft: Draft) -> None:
    draft.books.remove(draft.book(""))


@drawn("WITNESSED")
def part_of_the_time(draft: Draft) -> None:
    draft.start, draft.stop = NOW + 150, NOW + 400


@drawn("WITNESSED")
def a_time_in_which_nothing_was_recorded(draft: Draft) -> None:
    draft.start, draft.stop = NOW + 500, NOW + 600


@drawn("INCOMPLETE")
def a_range_that_ends_too_soon(draft: Draft) -> None:
    draft.start, draft.stop = NOW + 150, NOW + 400
    draft.book("edge-1").cut = (3, 6)


@drawn("INCOMPLETE")
def a_range_that_begins_too_late(draft: Draft) -> None:
    draft.start, draft.stop = NOW + 150, NOW + 400
    draft.book("edge-1").cut = (4, 7)


@drawn("INCOMPLETE")
def an_open_range_that_ends_too_soon(draft: Draft) -> None:
    draft.book("edge-1").cut = (0, 6)


@drawn("WITNESSED")
def a_range_that_reaches_beyond_what_was_asked(draft: Draft) -> None:
    draft.start, draft.stop = NOW + 150, NOW + 400
    draft.book("edge-1").cut = (3, 8)


@drawn("INCOMPLETE")
def the_record_that_bounds_the_range_is_left_out(draft: Draft) -> None:
    draft.start, draft.stop = NOW + 150, NOW + 400
    draft.book("edge-1").left_out = {7}


@drawn("WITNESSED")
def a_filter(draft: Draft) -> None:
    draft.asked = {"commitments": [], "models": ["tiny"], "workflows": []}
    book = draft.book("edge-1")
    book.left_out = {len(book.leaves) - 1}


@drawn("WITNESSED")
def a_filter_and_a_missing_heartbeat_nobody_can_tell(draft: Draft) -> None:
    draft.asked = {"commitments": [], "models": ["tiny"], "workflows": []}
    draft.book("edge-1").left_out = {4}


@drawn("INCOMPLETE")
def a_filter_that_hides_a_record_of_the_operators(draft: Draft) -> None:
    draft.asked = {"commitments": [], "models": ["tiny"], "workflows": []}
    draft.book("").left_out = {1}
