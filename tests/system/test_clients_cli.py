"""What people type: the `llm` command with an OpenAI-compatible endpoint, and plain curl."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from exclave_testing.clients import CHAT_MODEL, QUIET, Service
from exclave_testing.processes import BIN, run, wait_for

pytestmark = pytest.mark.model

MODELS = [
    {
        "model_id": "local",
        "model_name": CHAT_MODEL,
        "api_key_name": "exclave",
        "supports_schema": True,
        "supports_tools": True,
    },
    {
        "model_id": "local-text",
        "model_name": CHAT_MODEL,
        "api_key_name": "exclave",
        "completion": True,
    },
]


@pytest.fixture
def user(service: Service, tmp_path: Path) -> Path:
    """A user's folder of `llm`, as its documentation says to write it."""
    models = [{**each, "api_base": service.base_url} for each in MODELS]
    (tmp_path / "extra-openai-models.yaml").write_text(yaml.safe_dump(models))
    (tmp_path / "keys.json").write_text(json.dumps({"exclave": service.key}))
    return tmp_path


def llm(user: Path, *words: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
    return run([BIN / "llm", *words], env={**QUIET, "LLM_USER_PATH": str(user)}, code=code)


def test_llm_answers_plain_and_streamed(user: Path) -> None:
    asked = ("-m", "local", "Say hello.", "-o", "temperature", "0", "-o", "max_tokens", "8")
    plain = llm(user, *asked, "--no-stream").stdout
    assert plain.strip()
    assert llm(user, *asked).stdout.strip()
    logged = json.loads(llm(user, "logs", "list", "--json", "-n", "1").stdout)
    assert logged[0]["input_tokens"] > 0


def test_llm_completes_text(user: Path) -> None:
    words = ("-m", "local-text", "The capital of France is", "-o", "max_tokens", "6")
    assert "Paris" in llm(user, *words, "-o", "temperature", "0").stdout


def test_llm_holds_a_schema(user: Path) -> None:
    schema = json.dumps(
        {
            "type": "object",
            "properties": {"mood": {"enum": ["good", "bad"]}},
            "required": ["mood"],
            "additionalProperties": False,
        }
    )
    answer = llm(user, "-m", "local", "What a day!", "--schema", schema).stdout
    assert json.loads(answer)["mood"] in ("good", "bad")


def test_llm_offers_tools(user: Path) -> None:
    functions = 'def multiply(a: int, b: int) -> int:\n    "Multiply."\n    return a * b\n'
    words = ("-m", "local", "Hello!", "--functions", functions, "-o", "max_tokens", "16")
    done = llm(user, *words, "--chain-limit", "2", code=None)
    # Whether a small model calls it is its own affair; that tools are offered is accepted.
    assert "Error code" not in done.stderr
    assert done.returncode == 0 or "Chain limit" in done.stderr


def test_llm_tells_our_errors(user: Path) -> None:
    (user / "keys.json").write_text(json.dumps({"exclave": "exk_00000000_" + "A" * 43}))
    refused = llm(user, "-m", "local", "hello", code=1)
    assert "the API key is unknown or revoked" in refused.stderr


# --- curl ---------------------------------------------------------------------------------------


def curl(service: Service, path: str, *words: str, body: Any = None, code: int = 0) -> str:
    command = ["curl", "-sS", "--noproxy", "*", "-H", f"Authorization: Bearer {service.key}"]
    if body is not None:
        data = body if isinstance(body, str) else json.dumps(body)
        command += ["-H", "Content-Type: application/json", "--data-binary", data]
    return run([*command, *words, service.url + path], code=code).stdout


def chat(**fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Say hello."}]
    return {"model": CHAT_MODEL, "messages": messages, "max_tokens": 6, **fields}


def test_curl_plain(service: Service) -> None:
    answer = json.loads(curl(service, "/v1/chat/completions", body=chat()))
    assert answer["choices"][0]["message"]["content"]
    assert {each["id"] for each in json.loads(curl(service, "/v1/models"))["data"]} >= {CHAT_MODEL}


def test_curl_over_the_unix_socket(service: Service) -> None:
    socket = service.agent.home / "run" / "agent.sock"
    words = ("--unix-socket", str(socket))
    answer = json.loads(curl(service, "/v1/chat/completions", *words, body=chat()))
    assert answer["object"] == "chat.completion"


def test_curl_streams(service: Service) -> None:
    text = curl(service, "/v1/chat/completions", "-N", "-i", body=chat(stream=True))
    head, _, events = text.partition("\n\n")
    assert "text/event-stream" in head
    *chunks, done = [line[6:] for line in events.splitlines() if line]
    assert done == "[DONE]"
    assert "".join(
        json.loads(chunk)["choices"][0]["delta"].get("content") or "" for chunk in chunks
    )


def test_curl_errors(service: Service) -> None:
    write = ("-o", "/dev/null", "-w", "%{http_code} %header{x-exclave-rule}")
    said = curl(
        service,
        "/v1/chat/completions",
        *write,
        "-H",
        "x-exclave-data-class: restricted",
        body=chat(),
    )
    assert said == "403 starter-restricted-needs-reviewer"
    assert curl(service, "/v1/chat/completions", *write, body="{").startswith("400")
    assert curl(service, "/v1/chat/completions", *write, "--compressed", body=chat()).startswith(
        "200"
    )
    failed = curl(service, "/v1/nothing", "--fail-with-body", code=22)
    assert json.loads(failed)["error"]["code"] == "unknown_url"


def test_curl_giving_up_is_recorded(service: Service, tmp_path: Path) -> None:
    head = tmp_path / "head"
    story = [{"role": "user", "content": "Write a very long story about the sea."}]
    body = json.dumps(chat(max_tokens=512, stream=True, messages=story))
    words = ["curl", "-sS", "-N", "--noproxy", "*", "-D", str(head), "--data-binary", body]
    words += ["-H", f"Authorization: Bearer {service.key}"]
    with subprocess.Popen(
        [*words, f"{service.base_url}/chat/completions"], stdout=subprocess.DEVNULL
    ) as giving_up:

        def named() -> str | None:
            found = re.search("x-exclave-decision: ([0-9a-f]+)", head.read_text())
            return found[1] if found else None

        decision = str(wait_for("the response to begin", lambda: head.exists() and named()))
        giving_up.terminate()
    result = service.record(decision)
    assert (result["outcome"], result["reason"]) == ("cancelled", "client_gone")
