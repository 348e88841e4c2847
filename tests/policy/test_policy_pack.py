"""Packs: one canonical form, bounded, and only what belongs into it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave_policy.compile import compile_pack
from exclave_policy.errors import PolicyInvalid
from exclave_policy.pack import (
    MAX_FILES,
    MAX_PACK,
    Pack,
    combine,
    encode,
    load_directory,
    pack_directory,
    pack_files,
    unpack,
)
from exclave_testing.policies import allow, ask, deny, document

POLICY = json.dumps(document(allow("a"))).encode()
OTHER = json.dumps(document(deny("d"))).encode()
PACK_YAML = b"""apiVersion: exclave.dev/v1
kind: Pack
metadata: {name: both, version: "2"}
"""


def test_the_bytes_of_a_pack_are_frozen() -> None:
    """A change of these bytes changes every pack digest ever signed."""
    raw = encode(Pack("p", "1", {"policy.yaml": 'a: "\u00e9"\n', "README.md": "\t/\u007f\u2028"}))
    assert raw.decode() == (
        '{"files":{"README.md":"\\t/\u007f\u2028","policy.yaml":"a: \\"\u00e9\\"\\n"},'
        '"name":"p","schema":"exclave.pack/v1","version":"1"}'
    )


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.dictionaries(
        st.from_regex(r"[A-Za-z0-9_]{1,9}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,3})?", fullmatch=True),
        st.text(st.characters(exclude_categories=["Cs"])),
        max_size=6,
    )
)
def test_packing_and_unpacking_agree(files: dict[str, str]) -> None:
    raw = encode(Pack("p", "1", files))
    pack = unpack(raw)
    assert dict(pack.files) == files
    assert encode(pack) == raw


def test_canonical_as_rfc_8785() -> None:
    rfc8785 = pytest.importorskip("rfc8785", reason="the dev extra is not installed")
    files = {"a.b": '\x00\x1f"\\\u00e9\U0001f600\n', "a": "", "A/b": "</script>"}
    value = {"schema": "exclave.pack/v1", "name": "p", "version": "1", "files": files}
    assert encode(Pack("p", "1", files)) == rfc8785.dumps(value)


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw + b" ",
        lambda raw: raw.replace(b'"name"', b' "name"'),
        lambda raw: raw.replace(b'"name":"p"', b'"name":"p","name":"p"'),
        lambda raw: raw.replace(b'"name":"p",', b""),
        lambda raw: raw.replace(b'"name":"p"', b'"name":7'),
        lambda raw: raw.replace(b'"version":"1"', b'"version":"\\u0031"'),
        lambda raw: raw.replace(b"pack/v1", b"pack/v2"),
        lambda raw: raw.replace(b'"files":{', b'"files":{"x":[],'),
        lambda raw: raw.replace(b'"files":{', b'"files":{"x":{},'),
        lambda raw: raw.replace(b'"files":{', b'"files":{"../x":"",'),
        lambda raw: raw.replace(b'"files":{', b'"files":{"/x":"",'),
        lambda raw: raw.replace(b'"files":{', b'"files":{"\xc3\xa9":"",'),
        lambda raw: raw.replace(b'"p"', b'"\xff"'),
        lambda raw: raw[:-1],
        lambda raw: b"null",
        lambda raw: b"",
        lambda raw: raw.replace(b'"p"', b'"P"'),
        lambda raw: raw.replace(b'"1"', b'"\\ud800"'),
        lambda raw: raw + b"\n" * MAX_PACK,
    ],
)
def test_only_the_canonical_bytes_are_a_pack(change: object) -> None:
    raw = encode(Pack("p", "1", {"policy.yaml": "x"}))
    damaged = change(raw)  # type: ignore[operator] # a lambda of the table above
    assert damaged != raw
    with pytest.raises(PolicyInvalid):
        unpack(damaged)


def test_bounds() -> None:
    with pytest.raises(PolicyInvalid, match="at most 1048576 bytes"):
        encode(Pack("p", "1", {"a": "x" * MAX_PACK}))
    with pytest.raises(PolicyInvalid, match=f"at most {MAX_FILES}"):
        encode(Pack("p", "1", {f"f{i}": "" for i in range(MAX_FILES + 1)}))
    with pytest.raises(PolicyInvalid, match="not UTF-8"):
        encode(Pack("p", "1", {"a": "\ud800"}))


def test_name_and_version_come_from_the_only_policy() -> None:
    pack = unpack(pack_files({"rules/policy-x.yaml": POLICY}))
    assert (pack.name, pack.version) == ("test", "1")


def test_name_and_version_come_from_policy_yaml_among_several() -> None:
    pack = unpack(pack_files({"policy.yaml": POLICY, "policy-freeze.yaml": OTHER}))
    assert (pack.name, pack.version) == ("test", "1")
    assert not compile_pack(pack).evaluate(ask()).allowed


def test_name_and_version_come_from_pack_yaml_first() -> None:
    files = {"pack.yaml": PACK_YAML, "policies/a.yaml": POLICY, "policies/d.yaml": OTHER}
    pack = unpack(pack_files(files))
    assert (pack.name, pack.version) == ("both", "2")
    assert pack.policies() == ["policies/a.yaml", "policies/d.yaml"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"policies/a.yaml": POLICY, "policies/d.yaml": OTHER}, "nothing names the pack"),
        ({"README.md": b"x"}, "no policy document"),
        ({"policy.yaml": b"\xff"}, "not UTF-8"),
        ({"policy.yaml": b"kind: Policy"}, "field 'metadata' is missing"),
        ({"policy.yaml": POLICY, "pack.yaml": b"kind: Pack"}, "field 'metadata' is missing"),
        ({"policy.yaml": POLICY, "../x": b""}, "path is not valid"),
    ],
)
def test_files_that_are_no_pack(files: dict[str, bytes], message: str) -> None:
    with pytest.raises(PolicyInvalid, match=message):
        pack_files(files)


def test_a_folder_gives_what_belongs_to_a_pack_and_nothing_else(tmp_path: Path) -> None:
    for name in ("policies", "prompts", "__pycache__", "data"):
        (tmp_path / name).mkdir()
    kept = ["README.md", "cases.yaml", "policies/extra.yaml", "policy.yaml", "prompts/hi.jinja"]
    left = ["train.py", "data/secret.csv", "prompts/run.sh", ".env", "__pycache__/x.md", "notes.md"]
    for name in kept + left:
        content = POLICY if name == "policy.yaml" else OTHER
        (tmp_path / name).write_bytes(content)
    (tmp_path / "policies" / "linked.yaml").symlink_to(tmp_path / "policy.yaml")
    (tmp_path / "schemas").symlink_to(tmp_path / "data")
    assert list(load_directory(tmp_path).files) == kept
    assert unpack(pack_directory(tmp_path)) == load_directory(tmp_path)


def test_a_folder_without_a_pack(tmp_path: Path) -> None:
    with pytest.raises(PolicyInvalid, match="holds no pack"):
        load_directory(tmp_path)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_bytes(b"#" * (MAX_PACK + 1))
    with pytest.raises(PolicyInvalid, match=r"policy\.yaml: the file is too large"):
        load_directory(tmp_path)


def test_combined_rules_apply_together() -> None:
    first = Pack("one", "1", {"policy.yaml": POLICY.decode()})
    second = Pack("two", "3", {"policy.yaml": OTHER.decode()})
    both = combine([first, second], "both")
    assert (both.name, both.version) == ("both", "one-1+two-3")
    assert both.policies() == ["one/policy.yaml", "two/policy.yaml"]
    assert unpack(encode(both)) == both
    assert compile_pack(first).evaluate(ask()).allowed
    assert not compile_pack(both).evaluate(ask()).allowed


def test_combining_is_refused_where_names_or_rules_collide() -> None:
    pack = Pack("one", "1", {"policy.yaml": POLICY.decode()})
    with pytest.raises(PolicyInvalid, match="distinct names"):
        combine([pack, pack], "both")
    with pytest.raises(PolicyInvalid, match="distinct names"):
        combine([], "none")
    twin = Pack("two", "1", pack.files)
    with pytest.raises(PolicyInvalid, match=r"rule id 'a' is taken in one/policy\.yaml"):
        compile_pack(combine([pack, twin], "both"))


def test_the_files_of_a_pack_cannot_be_changed() -> None:
    pack = unpack(pack_files({"policy.yaml": POLICY}))
    with pytest.raises(TypeError):
        pack.files["policy.yaml"] = "x"  # type: ignore[index] # that it cannot be is the test
