"""The main job as a fixture: everything enrolled, signed, rolled out, answering."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from exclave_testing.models import smollm2_path
from exclave_testing.processes import ROOT, World

PACKS = ROOT / "policies" / "packs"
FRAUD_MODEL = ROOT / "build" / "fraud" / "model.onnx"
ALL_PACKS = (PACKS / "starter", PACKS / "fraud")


def model_words() -> list[str]:
    """`--model` values of the two real models."""
    return [
        f"smollm2={smollm2_path()},runtime=llama,n_ctx=1024,n_parallel=4,embeddings=true",
        f"fraud={FRAUD_MODEL},runtime=onnx",
    ]


def ship(
    world: World,
    tenant: str,
    *,
    models: list[str] | None = None,
    packs: Sequence[Path] | None = None,
) -> None:
    """Build, sign by two, publish and roll out one release; by default the main job's."""
    world.build(
        tenant,
        ALL_PACKS if packs is None else packs,
        model_words() if models is None else models,
    )
    world.sign(tenant, "alice", "bob")
    world.publish(tenant)
    world.rollout(tenant)


@contextmanager
def main_job_world(folder: Path) -> Iterator[World]:
    """Coordinator, tenant acme (2 of alice, bob, carol), agents north and south, one release."""
    world = World(folder, tap=folder / "received.bin")
    try:
        world.up()
        world.tenant("acme", ("alice", "bob", "carol"), 2)
        for name in ("north", "south"):
            agent = world.add_agent("acme", name)
            agent.start()
            agent.create_key("analyst")
        ship(world, "acme")
        yield world
    finally:
        world.close()


@contextmanager
def one_agent_world(
    folder: Path, pack: str, models: list[str], *, keys: int = 1
) -> Iterator[tuple[str, list[str]]]:
    """One enrolled agent with a signed release of one pack; its URL and analysts' keys."""
    world = World(folder)
    try:
        world.up()
        world.tenant("acme", ("alice", "bob", "carol"), 2)
        agent = world.add_agent("acme", "bench")
        agent.start()
        secrets = [agent.create_key("analyst") for _ in range(keys)]
        ship(world, "acme", models=models, packs=[PACKS / pack])
        yield agent.url, secrets
    finally:
        world.close()
