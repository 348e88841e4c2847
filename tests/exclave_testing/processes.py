"""Run the product as its users do: real commands, real processes, real sockets, in a folder.

Used by tests/system, tests/faults and the demo. Every wait has a deadline and says what it
waited for; every process started here is stopped by `World.close`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


class CommandFailed(AssertionError):
    """A command ended with another exit code than expected; shows what it printed."""


def free_port() -> int:
    """A TCP port on loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(what: str, condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Poll until `condition` is truthy; return it. Raises: AssertionError naming `what`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s in vain for: {what}")
        time.sleep(0.02)


def run(
    command: Sequence[str | Path],
    *,
    code: int | None = 0,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 90,
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end. `code` None: any exit code will do."""
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, "COLUMNS": "200", **(env or {})},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )
    if code is not None and done.returncode != code:
        words = " ".join(str(part) for part in command)
        raise CommandFailed(
            f"`{words}` exited {done.returncode}, wanted {code}\n{done.stdout}\n{done.stderr}"
        )
    return done


@dataclass
class Service:
    """A process that runs until it is told to stop; its output goes to a file."""

    command: list[str]
    log: Path
    env: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; the caller waits for readiness in its own way."""
        assert self.process is None or self.process.poll() is not None, "already running"
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                self.command,
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self.env},
            )

    def alive(self) -> bool:
        """True while the process runs."""
        return self.process is not None and self.process.poll() is None

    def stop(self, seconds: float = 30) -> int:
        """SIGTERM, then wait; returns the exit code. SIGKILL after `seconds`."""
        assert self.process is not None
        if self.alive():
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
                raise AssertionError(f"did not stop in {seconds} s; log: {self.tail()}") from None
        return int(self.process.returncode)

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def tail(self, lines: int = 30) -> str:
        """The end of its output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Coordinator:
    """A coordinator in its own folder and process."""

    def __init__(self, home: Path, *, tap: Path | None = None, domain: str = "example.org") -> None:
        self.home = home
        self.domain = domain
        self.ports = (free_port(), free_port(), free_port())
        command = [str(BIN / "exclave-coordinator")]
        if tap is not None:
            command = [sys.executable, "-m", "exclave_testing.tapped_coordinator", str(tap)]
        self.service = Service(
            [*command, "serve", "--home", str(home)],
            home.with_suffix(".log"),
            {"PYTHONPATH": str(ROOT / "tests")},
        )

    @property
    def profile(self) -> Path:
        """The first administrator's profile folder."""
        return self.home / "operators" / "admin"

    def init(self) -> None:
        """`exclave-coordinator init`."""
        session, enroll, metrics = (f"127.0.0.1:{port}" for port in self.ports)
        command: list[str | Path] = [BIN / "exclave-coordinator", "init", "--home", self.home]
        command += ["--trust-domain", self.domain, "--listen", session]
        run([*command, "--enroll-listen", enroll, "--metrics-listen", metrics])

    def start(self) -> None:
        """Serve, and wait until both ports answer."""
        self.service.start()

        def ready() -> bool:
            if not self.service.alive():
                raise AssertionError(f"coordinator ended early:\n{self.service.tail()}")
            return all(_open(port) for port in self.ports[:2])

        wait_for("the coordinator's ports", ready)

    def ctl(self, *words: str | Path, code: int | None = 0, timeout: float = 90) -> str:
        """Run `exclave` as the first administrator; returns stdout (and stderr on refusal)."""
        done = run([BIN / "exclave", "--profile", self.profile, *words], code=code, timeout=timeout)
        return done.stdout if done.returncode == 0 else done.stdout + done.stderr

    def ctl_json(self, *words: str | Path) -> Any:
        """Run `exclave ... --json` and decode what it prints."""
        return json.loads(self.ctl(*words, "--json"))


def _open(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Agent:
    """An agent in its own folder and process."""

    def __init__(self, home: Path, *, env: Mapping[str, str] | None = None) -> None:
        self.home = home
        self.service = Service(
            [str(BIN / "exclave-agent"), "run", "--home", str(home), "--listen", "127.0.0.1:0"],
            home.with_suffix(".log"),
            dict(env or {}),
        )
        self.key = ""

    def cli(self, *words: str | Path, code: int | None = 0) -> str:
        """Run `exclave-agent <words> --home <home>`."""
        done = run([BIN / "exclave-agent", *words, "--home", self.home], code=code)
        return done.stdout if done.returncode == 0 else done.stdout + done.stderr

    def join(self, token: str, code: int = 0) -> str:
        """Join with a token (through a file, so that it is not in the process list)."""
        file = self.home.with_suffix(".token")
        file.write_text(token)
        file.chmod(0o600)
        return self.cli("join", "--token-file", file, code=code)

    def start(self) -> None:
        """Run, and wait until the HTTP API answers."""
        endpoints = self.home / "run" / "endpoints.json"
        endpoints.unlink(missing_ok=True)
        self.service.start()

        def ready() -> bool:
            if not self.service.alive():
                raise AssertionError(f"agent ended early:\n{self.service.tail()}")
            return endpoints.exists() and self.get("/healthz")[0] == 200

        wait_for(f"agent {self.home.name} to answer", ready)

    @property
    def url(self) -> str:
        """Base URL of the HTTP API."""
        document = json.loads((self.home / "run" / "endpoints.json").read_text())
        return str(document["http"])

    def create_key(self, role: str) -> str:
        """An API key with one role; also becomes this object's key."""
        self.key = json.loads(self.cli("key", "create", "--role", role, "--json"))["key"]
        return self.key

    def status(self) -> dict[str, Any]:
        """`exclave-agent status --json`, whether or not there is a release yet."""
        done = run([BIN / "exclave-agent", "status", "--json", "--home", self.home], code=None)
        if done.returncode not in (0, 4):
            raise CommandFailed(f"no status (exit code {done.returncode}): {done.stderr}")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def get(self, path: str) -> tuple[int, Any]:
        """GET with this object's key."""
        return self._call(urllib.request.Request(self.url + path))

    def post(
        self, path: str, body: Any, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """POST JSON (bytes are sent as they are)."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data, {"content-type": "application/json", **(headers or {})}
        )
        return self._call(request)

    def chat(self, text: str, **fields: Any) -> tuple[int, Any]:
        """One chat completion with the language model."""
        body = {"model": "smollm2", "messages": [{"role": "user", "content": text}], **fields}
        return self.post("/v1/chat/completions", {"max_tokens": 24, "temperature": 0, **body})

    def _call(self, request: urllib.request.Request) -> tuple[int, Any]:
        if self.key and not request.has_header("Authorization"):
            request.add_header("Authorization", f"Bearer {self.key}")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                code, body = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            code, body = error.code, error.read()
        except OSError:
            return 0, None
        try:
            return code, json.loads(body)
        except ValueError:
            return code, body


class World:
    """A coordinator, a tenant with its signers, and agents, all below one folder."""

    def __init__(self, folder: Path, *, tap: Path | None = None) -> None:
        self.folder = folder
        self.coordinator = Coordinator(folder / "coordinator", tap=tap)
        self.agents: dict[str, Agent] = {}

    def close(self) -> None:
        """Stop everything that still runs."""
        for service in [a.service for a in self.agents.values()] + [self.coordinator.service]:
            if service.alive():
                service.kill()

    def up(self) -> None:
        """Coordinator initialised and serving."""
        self.coordinator.init()
        self.coordinator.start()

    def signer(self, name: str) -> Path:
        """Path of a person's private signing key."""
        return self.folder / "signers" / f"{name}.key"

    def workspace(self, tenant: str) -> Path:
        """The release workspace of a tenant."""
        return self.folder / f"{tenant}-releases"

    def tenant(self, name: str, signers: Sequence[str], threshold: int) -> None:
        """Create signing keys and the tenant."""
        keys: list[str | Path] = []
        for person in signers:
            if not self.signer(person).exists():
                self.coordinator.ctl(
                    "key", "generate", person, "-o", self.signer(person).parent, "--no-passphrase"
                )
            keys += ["--key", self.signer(person).with_suffix(".pub")]
        words: list[str | Path] = ["tenant", "create", name, *keys]
        self.coordinator.ctl(*words, "--threshold", str(threshold), "-o", self.workspace(name))

    def token(self, tenant: str, agent: str = "") -> str:
        """A join token pinned by the tenant's workspace."""
        words: list[str | Path] = ["token", "create", tenant, "--workspace", self.workspace(tenant)]
        if agent:
            words += ["--agent", agent]
        return str(self.coordinator.ctl_json(*words)["token"])

    def add_agent(self, tenant: str, name: str, **options: Any) -> Agent:
        """Join an agent; it is not started."""
        agent = Agent(self.folder / f"agent-{name}", **options)
        agent.join(self.token(tenant, name))
        self.agents[name] = agent
        return agent

    def build(self, tenant: str, packs: Sequence[Path], models: Sequence[str], *more: str) -> None:
        """`exclave release build`."""
        words: list[str | Path] = ["release", "build", self.workspace(tenant)]
        for pack in packs:
            words += ["--pack", pack]
        for model in models:
            words += ["--model", model]
        self.coordinator.ctl(*words, *more)

    def sign(self, tenant: str, *people: str) -> None:
        """`exclave release sign` by each person."""
        for person in people:
            self.coordinator.ctl(
                "release", "sign", self.workspace(tenant), "--key", self.signer(person)
            )

    def publish(self, tenant: str, code: int = 0) -> str:
        """`exclave release publish`; returns what it printed."""
        return self.coordinator.ctl("release", "publish", self.workspace(tenant), code=code)

    def rollout(self, tenant: str, seconds: float = 60) -> str:
        """Start a rollout of the newest release and wait until it is applied everywhere."""
        return self.coordinator.ctl(
            "rollout",
            "start",
            tenant,
            "--wait",
            "--timeout",
            str(int(seconds)),
            timeout=seconds + 20,
        )
