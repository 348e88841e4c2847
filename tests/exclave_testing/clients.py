"""What every client suite needs: one real agent's address and key, and no other network."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from exclave_testing.processes import Agent, wait_for

CHAT_MODEL = "smollm2"
TENSOR_MODEL = "fraud"
QUIET = {
    "LANGSMITH_TRACING": "false",
    "LANGCHAIN_TRACING_V2": "false",
    "NO_PROXY": "127.0.0.1,localhost",
    # A client that wants anything but loopback gets a dead proxy, at once.
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "HTTP_PROXY": "http://127.0.0.1:9",
}
_CONFIGURING = ("OPENAI_", "AZURE_OPENAI_", "LANGSMITH_", "LANGCHAIN_", "LLM_")


@dataclass(frozen=True)
class Service:
    """Where the clients are pointed to."""

    agent: Agent
    url: str
    key: str

    @property
    def base_url(self) -> str:
        """Of OpenAI's API."""
        return f"{self.url}/v1"

    @property
    def address(self) -> str:
        """Host and port, as the Open Inference Protocol's client wants it."""
        return self.url.removeprefix("http://")

    def record(self, decision: str, kind: str = "RESULT") -> dict[str, Any]:
        """The body of that decision's leaf, once it is written."""

        def find() -> dict[str, Any] | None:
            bodies = self._bodies(kind)
            return next((body for body in bodies if body["decision"] == decision), None)

        body: dict[str, Any] = wait_for(f"the {kind} of a decision", find)
        return body

    def decisions(self, kind: str) -> set[str]:
        """The decisions that have a leaf of this kind."""
        return {body["decision"] for body in self._bodies(kind)}

    def _bodies(self, kind: str) -> list[dict[str, Any]]:
        leaves = json.loads(self.agent.cli("audit", "show", "--json"))
        return [leaf["body"] for leaf in leaves if leaf["type"] == kind]


@contextmanager
def loopback_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Any connection of this process to another machine is an error of the test."""
    for name in [name for name in os.environ if name.startswith(_CONFIGURING)]:
        monkeypatch.delenv(name)
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    connect = socket.socket.connect

    def guarded(sock: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and not _is_local(str(address[0])):
            raise AssertionError("a client connects to another machine")
        connect(sock, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    yield


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
