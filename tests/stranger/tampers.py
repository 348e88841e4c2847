"""Ways to spoil a bundle, each with the verdict that the page gives it."""

import dataclasses
import io
import re
import zipfile
from collections.abc import Callable

from stranger import tree
from stranger.build import (
    NOW,
    OPERATORS,
    WITNESS_KEY,
    WITNESS_LOG,
    Book,
    Draft,
    Key,
    cosign,
    entry,
    link,
    pack,
    proof_of,
    seal,
    statement,
    sums,
)
from stranger.notes import LOG, WITNESS
from stranger.wire import canonical, parse, unb64

Files = dict[str, bytes]
ONE = "logs/edge-1/e1"
ALL = 10


@dataclasses.dataclass(frozen=True)
class Case:
    """A spoilt bundle: how, and what must be said of it."""

    name: str
    verdict: str
    make: Callable[[Draft], bytes]


CASES: list[Case] = []
Draw = Callable[[Draft], None]
Edit = Callable[[Files], None]
Repack = Callable[[bytes, Files], bytes]


def drawn(verdict: str) -> Callable[[Draw], Draw]:
    """Spoilt before anything is counted, summed and signed: what a forger with keys would do."""

    def add(spoil: Draw) -> Draw:
        def make(draft: Draft) -> bytes:
            spoil(draft)
            return pack(seal(draft.files()))

        CASES.append(Case(spoil.__name__, verdict, make))
        return spoil

    return add


def resealed(verdict: str) -> Callable[[Edit], Edit]:
    """Files are spoilt, then summed and signed again."""

    def add(spoil: Edit) -> Edit:
        def make(draft: Draft) -> bytes:
            files = draft.files()
            spoil(files)
            return pack(seal(files))

        CASES.append(Case(spoil.__name__, verdict, make))
        return spoil

    return add


def sealed(verdict: str) -> Callable[[Edit], Edit]:
    """Files are spoilt after sums and signature."""

    def add(spoil: Edit) -> Edit:
        def make(draft: Draft) -> bytes:
            files = seal(draft.files())
            spoil(files)
            return pack(files)

        CASES.append(Case(spoil.__name__, verdict, make))
        return spoil

    return add


def packed(verdict: str) -> Callable[[Repack], Repack]:
    """The zip itself is spoilt."""

    def add(spoil: Repack) -> Repack:
        def make(draft: Draft) -> bytes:
            files = seal(draft.files())
            return spoil(pack(files), files)

        CASES.append(Case(spoil.__name__, verdict, make))
        return spoil

    return add


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


@resealed("UNANCHORED")
def no_proof_of_the_cosignature(files: Files) -> None:
    del files[f"{ONE}/cosigned.proof"]


@resealed("UNANCHORED")
def the_proof_of_another_log_s_cosignature(files: Files) -> None:
    files[f"{ONE}/cosigned.proof"] = files["logs/edge-2/e1/cosigned.proof"]


@resealed("UNANCHORED")
def a_proof_that_is_none(files: Files) -> None:
    files[f"{ONE}/cosigned.proof"] = b"nothing\n"


@resealed("UNANCHORED")
def a_proof_by_another_key(files: Files) -> None:
    data = files[f"{ONE}/cosigned.proof"].decode().split("\n")
    body = _said(data[1].removeprefix("extra "))
    other = Key(WITNESS_LOG.vkey.name, LOG, "another")
    files[f"{ONE}/cosigned.proof"] = proof_of("COSIGNED", body, other)


def _said(extra: str) -> dict[str, object]:
    value = parse(unb64(extra))
    assert isinstance(value, dict) and isinstance(value["body"], dict)
    return value["body"]


@resealed("INVALID")
def a_flipped_byte_of_a_record(files: Files) -> None:
    name = f"{ONE}/records/000000000000.jsonl"
    files[name] = files[name].replace(b'"chat"', b'"chaT"', 1)


@resealed("INVALID")
def two_records_change_places(files: Files) -> None:
    name = f"{ONE}/records/000000000000.jsonl"
    lines = files[name].splitlines(keepends=True)
    lines[2], lines[3] = lines[3], lines[2]
    files[name] = b"".join(lines)


@resealed("INVALID")
def a_record_that_completeness_does_not_miss(files: Files) -> None:
    name = f"{ONE}/records/000000000000.jsonl"
    files[name] = b"".join(files[name].splitlines(keepends=True)[:-1])


@resealed("INVALID")
def no_newline_behind_the_last_record(files: Files) -> None:
    name = f"{ONE}/records/000000000000.jsonl"
    files[name] = files[name][:-1]


@resealed("INVALID")
def an_empty_file_of_records(files: Files) -> None:
    files[f"{ONE}/records/000000000099.jsonl"] = b""


@resealed("INVALID")
def a_record_twice(files: Files) -> None:
    lines = files[f"{ONE}/records/000000000000.jsonl"].splitlines(keepends=True)
    files[f"{ONE}/records/000000000003.jsonl"] = lines[3]


@resealed("WITNESSED")
def records_in_more_files_than_needed(files: Files) -> None:
    name = f"{ONE}/records/000000000000.jsonl"
    lines = files[name].splitlines(keepends=True)
    files[name] = b"".join(lines[:3])
    files[f"{ONE}/records/000000000003.jsonl"] = b"".join(lines[3:])


@resealed("INVALID")
def a_flipped_hash(files: Files) -> None:
    data = files[f"{ONE}/hashes"]
    files[f"{ONE}/hashes"] = bytes([data[0] ^ 1]) + data[1:]


@resealed("INVALID")
def a_hash_too_few(files: Files) -> None:
    files[f"{ONE}/hashes"] = files[f"{ONE}/hashes"][:-32]


@resealed("INVALID")
def completeness_says_something_else(files: Files) -> None:
    name = "completeness.json"
    files[name] = files[name].replace(b'"heartbeats":"2"', b'"heartbeats":"3"')


@resealed("INVALID")
def the_index_says_something_else(files: Files) -> None:
    files["index.csv"] = files["index.csv"].replace(b"denied", b"answered")


@resealed("INVALID")
def the_index_with_other_line_ends(files: Files) -> None:
    files["index.csv"] = files["index.csv"].replace(b"\r\n", b"\n")


@resealed("INVALID")
def the_listings_say_something_else(files: Files) -> None:
    files["listings.json"] = files["listings.json"].replace(b"tiny", b"huge")


@resealed("WITNESSED")
def neither_index_nor_listings(files: Files) -> None:
    del files["index.csv"], files["listings.json"]


@resealed("INVALID")
def a_file_that_is_no_bundle_s(files: Files) -> None:
    files["hello.txt"] = b"hello"


@resealed("INVALID")
def a_guide_in_other_words(files: Files) -> None:
    files["VERIFY.md"] += b"trust me\n"


@resealed("INVALID")
def no_guide(files: Files) -> None:
    del files["VERIFY.md"]


@resealed("INVALID")
def no_registration(files: Files) -> None:
    del files["logs/edge-1/registration.json"]


@resealed("INVALID")
def a_key_file_that_says_something_else(files: Files) -> None:
    files["keys/edge-1.e1.vkey"] = files["keys/edge-2.e1.vkey"]


@resealed("INVALID")
def a_key_file_without_its_newline(files: Files) -> None:
    files["keys/witness.vkey"] = files["keys/witness.vkey"][:-1]


@resealed("INVALID")
def a_manifest_with_white_space(files: Files) -> None:
    files["manifest.json"] += b"\n"


@resealed("INVALID")
def a_manifest_with_a_float(files: Files) -> None:
    files["manifest.json"] = files["manifest.json"].replace(b'"last_seen":"0"', b'"last_seen":0.0')


@resealed("INVALID")
def a_manifest_with_a_field_too_many(files: Files) -> None:
    value = parse(files["manifest.json"])
    assert isinstance(value, dict)
    files["manifest.json"] = canonical(value | {"more": "1"})


@resealed("INVALID")
def an_origin_of_another_tenant(files: Files) -> None:
    files["manifest.json"] = files["manifest.json"].replace(b'"tenant":"acme"', b'"tenant":"other"')


@resealed("INVALID")
def a_checkpoint_of_another_size(files: Files) -> None:
    data = files["manifest.json"]
    files["manifest.json"] = re.sub(rb'"size":"\d+"', b'"size":"5"', data, count=1)


@sealed("INVALID")
def a_sum_is_wrong(files: Files) -> None:
    data = files["SHA256SUMS"]
    files["SHA256SUMS"] = (b"1" if data[:1] == b"0" else b"0") + data[1:]
    files["manifest.dsse.json"] = statement(files)


@sealed("INVALID")
def a_sum_is_missing(files: Files) -> None:
    files["SHA256SUMS"] = b"".join(sums(files).splitlines(keepends=True)[1:])
    files["manifest.dsse.json"] = statement(files)


@sealed("WITNESSED")
def sums_in_another_order(files: Files) -> None:
    files["SHA256SUMS"] = b"".join(reversed(sums(files).splitlines(keepends=True)))
    files["manifest.dsse.json"] = statement(files)


@sealed("INVALID")
def sums_that_nobody_signed(files: Files) -> None:
    files["logs/edge-1/registration.json"] = b"{}"
    files["SHA256SUMS"] = sums(files)


@sealed("INVALID")
def a_statement_by_another_key(files: Files) -> None:
    files["manifest.dsse.json"] = statement(files, Key(OPERATORS, LOG, "another"))


@sealed("WITNESSED")
def a_statement_with_another_key_id(files: Files) -> None:
    data = files["manifest.dsse.json"]
    files["manifest.dsse.json"] = re.sub(rb'"keyid":"[0-9a-f]{4}', b'"keyid":"0000', data)


@sealed("INVALID")
def no_statement(files: Files) -> None:
    del files["manifest.dsse.json"]


@packed("INVALID")
def a_byte_behind_the_end(data: bytes, files: Files) -> bytes:
    del files
    return data + b"\0"


@packed("INVALID")
def a_byte_before_the_beginning(data: bytes, files: Files) -> bytes:
    del files
    return b"\0" + data


@packed("INVALID")
def a_comment(data: bytes, files: Files) -> bytes:
    del files
    return data[:-2] + b"\2\0hi"


@packed("INVALID")
def an_entry_twice(data: bytes, files: Files) -> bytes:
    out = io.BytesIO(data)
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr(entry("VERIFY.md"), files["VERIFY.md"])
    return out.getvalue()


def _repacked(files: Files, change: Callable[[zipfile.ZipInfo], None], level: int = 6) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            info = entry(name)
            change(info)
            archive.writestr(info, data, compresslevel=level)
    return out.getvalue()


def _dated(info: zipfile.ZipInfo) -> None:
    info.date_time = (2027, 1, 1, 0, 0, 0)


def _stored(info: zipfile.ZipInfo) -> None:
    info.compress_type = zipfile.ZIP_STORED


def _deflated(info: zipfile.ZipInfo) -> None:
    info.compress_type = zipfile.ZIP_DEFLATED


def _executable(info: zipfile.ZipInfo) -> None:
    info.external_attr = 0o100755 << 16


def _of_another_system(info: zipfile.ZipInfo) -> None:
    info.create_system = 0


def _of_another_version(info: zipfile.ZipInfo) -> None:
    info.create_version = info.extract_version = 20


def _with_extra(info: zipfile.ZipInfo) -> None:
    info.extra = b"\xfe\xca\2\0hi"


def _noted(info: zipfile.ZipInfo) -> None:
    info.comment = b"hi"


@packed("WITNESSED")
def entries_with_a_date(data: bytes, files: Files) -> bytes:
    del data
    return _repacked(files, _dated)


@packed("WITNESSED")
def entries_stored(data: bytes, files: Files) -> bytes:
    del data
    return _repacked(files, _stored)


@packed("WITNESSED")
def entries_deflated(data: bytes, files: Files) -> bytes:
    del data
    return _repacked(files, _deflated)


@packed("WITNESSED")
def entries_deflated_better(data: bytes, files: Files) -> bytes:
    del data
    return _repacked(files, lambda info: None, 1)


@packed("INVALID")
def entries_with_another_mode(data: bytes, files: Files) -> bytes:
    del data
    return _repacked(files, _executable)


@packed("INVALID")
def entries_of_another_system(data: bytes, files: Files) -> bytes:
    del data
    return _repacked(files, _of_another_system)


@packed("WITNESSED")
def entries_of_another_version(data: bytes, files: Files) -> bytes:
    del data
    return _repacked(files, _of_another_version)


@packed("INVALID")
def entries_with_extra_fields(data: bytes, files: Files) -> bytes:
    del data
    return _repacked(files, _with_extra)


@packed("INVALID")
def entries_with_comments(data: bytes, files: Files) -> bytes:
    del data
    return _repacked(files, _noted)


@packed("WITNESSED")
def files_in_another_order(data: bytes, files: Files) -> bytes:
    del data
    return pack(dict(reversed(files.items())))


@packed("INVALID")
def something_between_the_files(data: bytes, files: Files) -> bytes:
    del files
    start = int.from_bytes(data[-6:-2], "little")
    end = data[-22:-6] + (start + 2).to_bytes(4, "little") + data[-2:]
    return data[:start] + b"hi" + data[start:-22] + end


@packed("INVALID")
def cut_in_half(data: bytes, files: Files) -> bytes:
    del files
    return data[: len(data) // 2]
