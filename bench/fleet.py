"""How fast a rollout reaches a fleet: 500 and 2,000 hollow agents against one coordinator.

The coordinator is the real process. Agents live in two client processes with real enrolled
identities, a TLS connection and a session each (bench/fleet_agents.py); what a release costs
beside the data (verification, downloads, models) is left out. A round is one `rollout start`;
the time runs from that call until GetRollout counts every agent as applied, which is after the
coordinator's database holds their words. Clients, coordinator and this process share the cores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from exclave_protocol.wire import require_tls13

require_tls13()

import grpc  # noqa: E402 (after the TLS setting, which gRPC reads once)

from exclave_protocol.identity import JoinToken  # noqa: E402
from exclave_protocol.pb import admin_pb2 as pb  # noqa: E402
from exclave_protocol.pb.admin_pb2_grpc import AdminStub  # noqa: E402
from exclave_protocol.tufmeta import root_pin  # noqa: E402
from exclave_protocol.wire import CLIENT_OPTIONS  # noqa: E402
from exclave_testing.processes import ROOT, World  # noqa: E402

HERE = Path(__file__).resolve().parent
SIZES = (500, 2000)
ROUNDS = 5
CLIENTS = 2
TENANT = "acme"
POLL = 0.02
"""Seconds between two GetRollout calls: the resolution of what is measured."""
BAR_SECONDS = 3.0
WORST = "last applied recorded, worst round, s"


@dataclass
class Round:
    """One rollout."""

    generation: int
    began: float
    """CLOCK_MONOTONIC at the call of StartRollout."""
    curve: list[tuple[float, int]]
    """(seconds since `began`, agents applied), as GetRollout said."""

    def quantile(self, share: float, agents: int) -> float:
        """Seconds until that share of the agents was recorded as applied."""
        return next(at for at, applied in self.curve if applied >= share * agents)


class Clients:
    """The client processes."""

    def __init__(self, tokens: list[str], digest: str) -> None:
        self._processes = [
            subprocess.Popen(
                [sys.executable, HERE / "fleet_agents.py"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(CLIENTS)
        ]
        for number, process in enumerate(self._processes):
            assert process.stdin is not None
            order = {"tokens": tokens[number::CLIENTS], "digest": digest}
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()

    def read(self) -> list[dict[str, Any]]:
        """The next line of each."""
        lines = []
        for process in self._processes:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise SystemExit("a client process ended: its error is above")
            lines.append(json.loads(line))
        return lines

    def finish(self) -> dict[int, list[float]]:
        """End them; the moments at which agents answered each generation, sorted."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        moments: dict[int, list[float]] = {}
        for line in self.read():
            for generation, times in line["moments"].items():
                moments.setdefault(int(generation), []).extend(times)
        for process in self._processes:
            process.wait(60)
        return {generation: sorted(times) for generation, times in moments.items()}

    def kill(self) -> None:
        """When something went wrong before."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.wait(10)


@contextmanager
def coordinator(folder: Path) -> Iterator[tuple[World, Any]]:
    """A real coordinator with a tenant and one published release, and its Admin service."""
    world = World(folder)
    try:
        world.up()
        world.tenant(TENANT, ("alice",), 1)
        world.build(TENANT, [ROOT / "policies" / "packs" / "starter"], [])
        world.sign(TENANT, "alice")
        world.publish(TENANT)
        profile = world.coordinator.profile
        credentials = grpc.ssl_channel_credentials(
            (profile / "ca.pem").read_bytes(),
            (profile / "key.pem").read_bytes(),
            (profile / "cert.pem").read_bytes(),
        )
        endpoint = json.loads((profile / "profile.json").read_text())["endpoint"]
        with grpc.secure_channel(endpoint, credentials, options=CLIENT_OPTIONS) as channel:
            yield world, AdminStub(channel)
    finally:
        world.close()


def tokens_for(admin: Any, agents: int) -> list[str]:
    """One join token an agent."""
    root = admin.GetMetadata(pb.GetMetadataRequest(tenant=TENANT, name="1.root.json")).content
    pin = root_pin(root)
    texts = []
    for number in range(agents):
        name = f"agent-{number:05}"
        made = admin.CreateToken(pb.CreateTokenRequest(tenant=TENANT, agent=name))
        token = JoinToken(
            tenant=TENANT,
            token_id=made.token_id,
            secret=made.secret,
            endpoint=made.enroll_endpoint,
            ca_sha256=hashlib.sha256(made.ca_certificate).hexdigest(),
            root_pin=pin,
            agent=name,
        )
        texts.append(token.encode())
    return texts


def released(admin: Any) -> str:
    """Digest of the tenant's one release."""
    targets = admin.GetMetadata(pb.GetMetadataRequest(tenant=TENANT, name="targets.json")).content
    paths = json.loads(targets)["signed"]["targets"]
    (path,) = (path for path in paths if path.startswith("releases/"))
    return str(path).removeprefix("releases/").removesuffix(".json")


def rollout(admin: Any, digest: str, agents: int) -> Round:
    """Start one, and watch until every agent is recorded as applied."""
    began = time.monotonic()
    started = admin.StartRollout(pb.StartRolloutRequest(tenant=TENANT, release_digest=digest))
    made = Round(started.generation, began, [])
    while not made.curve or made.curve[-1][1] < agents:
        state = admin.GetRollout(pb.GetRolloutRequest(tenant=TENANT, rollout=started.rollout))
        made.curve.append((time.monotonic() - began, state.applied))
        if made.curve[-1][0] > 120:
            raise SystemExit(f"only {state.applied} of {agents} applied within 120 s")
        time.sleep(POLL)
    return made


def measure(agents: int, rounds: int) -> dict[str, float]:
    """One fleet size, in a fresh coordinator."""
    with (
        tempfile.TemporaryDirectory(prefix="exclave-fleet-") as folder,
        coordinator(Path(folder)) as (world, admin),
    ):
        service = world.coordinator.service.process
        assert service is not None
        process = psutil.Process(service.pid)
        empty = process.memory_info().rss
        digest = released(admin)
        clients = Clients(tokens_for(admin, agents), digest)
        try:
            enrolled = clients.read()
            window = max(e["ended"] for e in enrolled) - min(e["began"] for e in enrolled)
            connected = clients.read()
            rss = process.memory_info().rss
            made = []
            before = process.cpu_times()
            wall = time.monotonic()
            for _ in range(rounds):
                made.append(rollout(admin, digest, agents))
            wall = time.monotonic() - wall
            after = process.cpu_times()
            moments = clients.finish()
        finally:
            clients.kill()
    used = (after.user + after.system) - (before.user + before.system)
    last = [r.curve[-1][0] for r in made]
    answered = [at - r.began for r in made for at in moments[r.generation]]
    cuts = statistics.quantiles(answered, n=100)
    figures = {
        WORST: max(last),
        "last applied recorded, median round, s": statistics.median(last),
        "applied recorded p50, s": statistics.median(r.quantile(0.50, agents) for r in made),
        "applied recorded p99, s": statistics.median(r.quantile(0.99, agents) for r in made),
        "answered by the agent p50, s": cuts[49],
        "answered by the agent p99, s": cuts[98],
        "enrollments a second": agents / window,
        "coordinator RSS, MB": rss / 1e6,
        "coordinator RSS without agents, MB": empty / 1e6,
        "coordinator RSS an agent, kB": (rss - empty) / agents / 1e3,
        "coordinator CPU a rollout, s": used / rounds,
        "coordinator CPU share of a core": used / wall,
        "clients RSS, MB": sum(c["rss"] for c in connected) / 1e6,
    }
    return {what: round(value, 3) for what, value in figures.items()}


def main() -> None:
    """Measure, print, write bench/results/fleet.json."""
    from common import Bar, write_results

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="fleet sizes")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rollouts a size")
    options = parser.parse_args()
    # Each agent is a socket; the coordinator and the clients inherit the limit.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    rows: list[dict[str, Any]] = []
    bars = []
    for size in options.sizes:
        print(f"{size:,} agents, {options.rounds} rollouts ...", flush=True)
        figures = measure(size, options.rounds)
        rows += [{"agents": size, "what": what, "value": v} for what, v in figures.items()]
        if size == 2000:
            bars.append(
                Bar("2,000 agents applied, worst round (s)", figures[WORST], BAR_SECONDS, "lower")
            )
    versions = {name: version(name) for name in ("exclave", "grpcio", "protobuf", "sqlalchemy")}
    write_results("fleet", rows=rows, bars=bars, versions=versions)


if __name__ == "__main__":
    main()
