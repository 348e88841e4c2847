"""Our packages on a booted Debian: coordinator, tenant, release and agent as its services."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from exclave_testing.mainjob import FRAUD_MODEL, PACKS
from exclave_testing.models import smollm2_path
from exclave_testing.processes import ROOT, wait_for
from exclave_testing.sandbox import Sandbox

PACKAGES = ROOT / "build" / "packages"
INSIDE = {
    "packages": "/srv/packages",
    "models": "/srv/models",
    "fraud": "/srv/fraud",
    "packs": "/srv/packs",
}
AGENT = "exclave-agent.service"
COORDINATOR = "exclave-coordinator.service"
HOME = "/var/lib/exclave"
CENTRE = "/var/lib/exclave-coordinator"
PROFILE = f"{CENTRE}/operators/admin"
WORK = "/root/acme"


def binds(packages: Path = PACKAGES) -> dict[Path, str]:
    """What a box shows of the host, read-only."""
    return {
        packages: INSIDE["packages"],
        smollm2_path().parent: INSIDE["models"],
        FRAUD_MODEL.parent: INSIDE["fraud"],
        PACKS: INSIDE["packs"],
    }


class Installed:
    """A box, and what people do on it. Every method is what they would type."""

    def __init__(self, box: Sandbox) -> None:
        self.box = box
        self.key = ""

    # --- packages --------------------------------------------------------------------------

    def package(self, name: str, version: str = "0.1.0") -> str:
        """Path, inside, of a built package."""
        return f"{INSIDE['packages']}/{name}_{version}_amd64.deb"

    def dpkg(self, *names: str, version: str = "0.1.0") -> str:
        """Install packages with dpkg, offline."""
        files = [self.package(name, version) for name in names]
        env = {"DEBIAN_FRONTEND": "noninteractive"}
        return self.box.run(
            ["dpkg", "--force-unsafe-io", "-i", *files], env=env, timeout=180
        ).stdout

    # --- the centre ------------------------------------------------------------------------

    def centre_up(self) -> None:
        """A coordinator as a service, one tenant with two signers."""
        self.dpkg("exclave-coordinator", "exclave-cli")
        self.box.run(["exclave-coordinator", "init", "--home", CENTRE])
        self.box.run(["systemctl", "enable", "--now", COORDINATOR])
        for person in ("alice", "bob"):
            self.ctl("key", "generate", person, "-o", "/root/keys", "--no-passphrase")
        keys = ["--key", "/root/keys/alice.pub", "--key", "/root/keys/bob.pub"]
        self.ctl("tenant", "create", "acme", *keys, "--threshold", "2", "-o", WORK)

    def ctl(self, *words: str, code: int | None = 0, timeout: float = 120) -> str:
        """`exclave` as the first administrator."""
        done = self.box.run(["exclave", "--profile", PROFILE, *words], code=code, timeout=timeout)
        return done.stdout + done.stderr

    def release(self, models: Sequence[str] | None = None) -> None:
        """Build, sign twice, publish the first release."""
        if models is None:
            models = [
                f"smollm2={INSIDE['models']}/{smollm2_path().name},n_ctx=1024,n_parallel=2",
                f"fraud={INSIDE['fraud']}/{FRAUD_MODEL.name},runtime=onnx",
            ]
        words = [word for model in models for word in ("--model", model)]
        packs = ["--pack", f"{INSIDE['packs']}/starter", "--pack", f"{INSIDE['packs']}/fraud"]
        self.ctl("release", "build", WORK, *packs, *words)
        self.sign_and_publish()

    def sign_and_publish(self) -> None:
        """Both sign what is drafted; then it is published."""
        for person in ("alice", "bob"):
            self.ctl("release", "sign", WORK, "--key", f"/root/keys/{person}.key", "--yes")
        self.ctl("release", "publish", WORK)

    def rollout(self, seconds: int = 60) -> str:
        """Assign the newest release, and wait until it is applied."""
        words = ["rollout", "start", "acme", "--wait", "--timeout", str(seconds)]
        return self.ctl(*words, timeout=seconds + 20)

    def token(self, agent: str = "north") -> str:
        """Path, inside, of a fresh join token."""
        file = f"/root/{agent}-{time.monotonic_ns()}.token"
        self.ctl("token", "create", "acme", "--agent", agent, "--workspace", WORK, "-o", file)
        return file

    # --- the agent -------------------------------------------------------------------------

    def install_agent(self, *words: str) -> str:
        """Packages, then `exclave-agent install` with a fresh token."""
        self.dpkg("exclave-agent", "exclave-runtime-cpu")
        return self.agent("install", "--token-file", self.token(), *words)

    def agent(self, *words: str, code: int | None = 0, timeout: float = 120) -> str:
        """`exclave-agent` as root."""
        done = self.box.run(["exclave-agent", *words], code=code, timeout=timeout)
        return done.stdout + done.stderr

    def status(self) -> dict[str, Any]:
        """`exclave-agent status --json`; {} while none runs."""
        done = self.box.run(["exclave-agent", "status", "--json"], code=None)
        answer: dict[str, Any] = json.loads(done.stdout) if done.returncode in (0, 4) else {}
        return answer

    def wait_release(self, version: int = 1, seconds: float = 60) -> dict[str, Any]:
        """Wait until the agent answers with that release loaded."""

        def loaded() -> dict[str, Any] | None:
            status = self.status()
            release = status.get("release")
            return status if release and release["version"] == version else None

        found: dict[str, Any] = wait_for(f"release {version}", loaded, seconds)
        return found

    def create_key(self, role: str = "analyst") -> str:
        """An API key; later calls use it."""
        self.key = json.loads(self.agent("key", "create", "--role", role, "--json"))["key"]
        return self.key

    def call(self, path: str, body: Any = None, *, seconds: float = 60) -> tuple[int, bytes]:
        """One HTTP request to the agent's port: status and body; 0 when it is refused."""
        data = b"" if body is None else json.dumps(body).encode()
        head = [
            f"{'GET' if body is None else 'POST'} {path} HTTP/1.1",
            "Host: localhost",
            f"Authorization: Bearer {self.key}",
            f"Content-Length: {len(data)}",
            "Content-Type: application/json",
            "Connection: close",
        ]
        try:
            with self.box.connect(8181, seconds) as sock:
                sock.sendall("\r\n".join(head).encode() + b"\r\n\r\n" + data)
                answer = b""
                while chunk := sock.recv(1 << 16):
                    answer += chunk
        except ConnectionError:
            return 0, b""
        if not answer:
            return 0, b""
        top, _, rest = answer.partition(b"\r\n\r\n")
        return int(top.split()[1]), rest

    def chat(self, text: str = "Name three colours.", tokens: int = 8) -> tuple[int, bytes]:
        """One chat completion."""
        body = {"model": "smollm2", "max_tokens": tokens, "temperature": 0}
        return self.call(
            "/v1/chat/completions", {**body, "messages": [{"role": "user", "content": text}]}
        )

    def main_pid(self) -> int:
        """Of the agent, as the box counts."""
        return int(self.box.show(AGENT, "MainPID")["MainPID"])

    def journal(self) -> str:
        """What agent and workers wrote."""
        return self.box.journal(namespace="exclave")
