"""What looks like a secret is taken out, and what helps stays."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave_agent.doctor import journal
from exclave_agent.doctor.redact import Redactor
from exclave_agent.doctor.units import NOT_TAKEN, trimmed
from exclave_agent.identity import keys
from exclave_agent.storage.keys import SECRET_BYTES
from exclave_protocol.disclosure import b64url
from exclave_protocol.identity import JoinToken

RAW = hashlib.sha256(b"raw").digest()
API_KEY = f"exk_01234567_{b64url(RAW)}"
TOKEN = JoinToken("acme", "0" * 32, RAW, "127.0.0.1:1", "ab" * 32, "cd" * 32, "north").encode()
PEM = keys.private_pem(keys.new_identity_key()).decode().strip()
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("kind", "secret"),
    [
        ("pem block", PEM),
        ("pem block", PEM[: len(PEM) // 2]),  # cut off: to the end then
        ("join token", TOKEN),
        ("api key", API_KEY),
        ("api key", API_KEY[:20]),
        ("authorization", "Bearer abcdefgh12345678"),
        ("authorization", "basic YW5uOmh1bnRlcjI="),
        ("url password", "ann:hunter2"),
        ("json web token", JWT),
        ("foreign key", "sk-proj-abcdefghijkl1234"),
        ("foreign key", "AKIAABCDEFGHIJKLMNOP"),
        ("assigned secret", "password=hunter2"),
        ("assigned secret", "API_KEY: abcd1234"),
        ("key material", b64url(RAW)),
        ("key material", base64.b64encode(RAW * 2).decode()),
    ],
)
def test_secrets_by_their_shape(kind: str, secret: str) -> None:
    redactor = Redactor()
    before = "https://" if kind == "url password" else "before "
    after = "" if kind == "pem block" else ("@host" if kind == "url password" else " after")
    said = redactor.text(before + secret + after)
    assert said == f"{before}[redacted {kind}]{after}"
    assert redactor.counts == {kind: 1}
    assert Redactor().text(said) == said, "twice is as good as once"


@pytest.mark.parametrize(
    "text",
    [
        "/var/lib/exclave/artifacts/sha256/" + hashlib.sha256(b"x").hexdigest(),
        "release " + hashlib.sha256(b"x").hexdigest() + " version 3 answers now",
        "exclave-agent join, with a token from your operator",
        "exclave_agent.releases.watch: releases: expired: timestamp metadata has expired",
        "spiffe://example.org/tenant/acme/agent/edge-1",
        "2030-03-17T17:46:40.000+00:00 exclave-worker@3-812-997.service",
        "NoExecPaths=/ /var/lib/exclave /run/exclave /tmp /var/tmp /dev/shm",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
    ],
)
def test_what_helps_stays(text: str) -> None:
    redactor = Redactor()
    assert redactor.text(text) == text
    assert not redactor.counts


@given(st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES), st.text(max_size=20))
def test_no_key_of_ours_survives(raw: bytes, around: str) -> None:
    secret = f"exk_89abcdef_{b64url(raw)}"
    assert secret[4:] not in Redactor().text(f"{around} {secret} {around}")


def test_values_are_redacted_wherever_they_hang() -> None:
    redactor = Redactor()
    value = {
        "a": [API_KEY, 1, None, True],
        "password": "x",
        "api-key": "",
        "tokens": "three",
        API_KEY: {"deep": f"see {TOKEN}"},
    }
    said = redactor.value(value)
    assert said == {
        "a": ["[redacted api key]", 1, None, True],
        "password": "[redacted secret field]",
        "api-key": "",
        "tokens": "three",
        "[redacted api key]": {"deep": "see [redacted join token]"},
    }
    assert redactor.counts == {"api key": 2, "secret field": 1, "join token": 1}


def test_names_are_replaced_as_whole_words() -> None:
    redactor = Redactor({"acme": "<tenant>", "acme.example": "<host>", "": "<nothing>"})
    assert redactor.text("acme at acme.example, acmes") == "<tenant> at <host>, acmes"
    assert redactor.counts == {"name": 2}


# --- the journal --------------------------------------------------------------------------


def _taken(**entry: object) -> dict[str, object]:
    (found,) = journal.select(json.dumps(entry))
    return found


def test_our_own_lines_are_taken_with_their_place() -> None:
    assert _taken(
        MESSAGE="exclave_agent.agent: answering",
        LOGGER="exclave_agent.agent",
        PRIORITY="6",
        CODE_FUNC="_answering",
        CODE_LINE="12",
        _SYSTEMD_UNIT="exclave-agent.service",
        _PID="42",
        __REALTIME_TIMESTAMP="1900000000123456",
        _HOSTNAME="secret-host",
        _CMDLINE="exclave-agent run",
    ) == {
        "at": "2030-03-17T17:46:40.123+00:00",
        "unit": "exclave-agent.service",
        "priority": "6",
        "pid": "42",
        "logger": "exclave_agent.agent",
        "where": "_answering:12",
        "message": "exclave_agent.agent: answering",
    }


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"MESSAGE": "Started it.", "_PID": "1"}, "Started it."),
        (
            {"MESSAGE": "x.conf:3: Invalid assignment, ignoring: KEY=secret", "_PID": "1"},
            "x.conf:3: Invalid assignment, ignoring: [not taken]",
        ),
        (
            {"MESSAGE": "2030-03-17 17:46:40,123 INFO exclave_agent.agent: stopped"},
            "2030-03-17 17:46:40,123 INFO exclave_agent.agent: stopped",
        ),
        ({"MESSAGE": "llama: the patient is"}, "[21 characters that others wrote, not taken]"),
        (
            {"MESSAGE": "abc", "LOGGER": "uvicorn.error"},
            "[3 characters that others wrote, not taken]",
        ),
        ({"MESSAGE": "abc", "LOGGER": ["x"]}, "[3 characters that others wrote, not taken]"),
        ({"MESSAGE": [1, 2, 3]}, "[not a text, not taken]"),
        ({}, "[not a text, not taken]"),
    ],
)
def test_what_others_wrote_is_counted_only(entry: dict[str, object], message: str) -> None:
    assert _taken(**entry)["message"] == message


def test_a_line_that_was_cut_is_passed_over() -> None:
    assert list(journal.select('AGE":"x"}\n{"MESSAGE":"y"}\n[]\n')) == [
        {"at": "", "message": "[1 characters that others wrote, not taken]"}
    ]


def test_the_newest_lines_count() -> None:
    assert journal.newest(["aaaa", "bbbb", "cc"], 8) == (["bbbb", "cc"], 1)
    assert journal.newest(["aaaa"], 5) == (["aaaa"], 0)
    assert journal.newest(["aaaa"], 4) == ([], 1)
    assert journal.newest([]) == ([], 0)


# --- unit files ---------------------------------------------------------------------------


def test_of_units_only_harmless_values_are_taken() -> None:
    text = """\
# password: hunter2
[Service]
MemoryMax = 1G
Environment=KEY=hunter2
Environment=A=1 \\
  KEY=hunter2
ExecStart=/bin/x --password hunter2
SetCredential=x:hunter2
ProtectHome=no
MemoryMax=1G \\
ProtectSystem=hunter2
hunter2
[X-hunter2=1]
"""
    said = list(trimmed(text))
    assert said == [
        "[Service]",
        "MemoryMax=1G",
        f"Environment={NOT_TAKEN}",
        f"Environment={NOT_TAKEN}",
        f"ExecStart={NOT_TAKEN}",
        f"SetCredential={NOT_TAKEN}",
        "ProtectHome=no",
        f"MemoryMax={NOT_TAKEN}",
        "[line not understood, not taken]",
        "[line not understood, not taken]",
    ]
