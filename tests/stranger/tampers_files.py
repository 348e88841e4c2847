"""Bundles with spoilt files."""

import re

from stranger.build import OPERATORS, WITNESS_LOG, Key, proof_of, statement, sums
from stranger.notes import LOG
from stranger.tampers import Files, resealed, sealed
from stranger.wire import canonical, parse, unb64

ONE = "logs/edge-1/e1"


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
def a_registration_that_is_not_canonical(files: Files) -> None:
    files["logs/edge-1/registration.json"] = b"{ }"


@resealed("INVALID")
def a_registration_of_an_agent_without_a_log(files: Files) -> None:
    files["logs/edge-3/registration.json"] = b"{}"


@resealed("INVALID")
def agents_out_of_order(files: Files) -> None:
    value = parse(files["manifest.json"])
    assert isinstance(value, dict)
    files["manifest.json"] = canonical(value | {"agents": value["agents"][::-1]})


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


@sealed("WITNESSED")
def a_statement_in_another_spelling_with_a_second_signature(files: Files) -> None:
    value = parse(files["manifest.dsse.json"])
    assert isinstance(value, dict)
    value["signatures"] = [{"sig": "AAAA"}, *value["signatures"]]
    files["manifest.dsse.json"] = canonical(value) + b"\n"


@sealed("INVALID")
def a_statement_without_signatures(files: Files) -> None:
    value = parse(files["manifest.dsse.json"])
    assert isinstance(value, dict)
    files["manifest.dsse.json"] = canonical(value | {"signatures": []})


@sealed("INVALID")
def no_statement(files: Files) -> None:
    del files["manifest.dsse.json"]
