"""`exclave` run in this process, with the keys, packs and models of small examples."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from exclave_ctl.cli import main

POLICY = """\
apiVersion: exclave.dev/v1
kind: Policy
metadata: {name: chat, version: "1"}
spec:
  rules:
    - id: analysts
      effect: allow
      subjects: {roles: [analyst]}
      actions: [chat]
      models: ["*"]
"""
CASES = """\
cases:
  - name: an analyst chats
    given: {subject: s, roles: [analyst], action: chat, model: small}
    expect: {allowed: true, rule: analysts}
"""


@dataclass
class Ctl:
    """`exclave` with a profile, run in this process."""

    profile: Path
    folder: Path

    def __call__(self, *words: object, code: int = 0) -> Result:
        """Run a command; fails when the exit code is another one."""
        runner = CliRunner()
        done = runner.invoke(main, ["--profile", str(self.profile), *map(str, words)])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == code, done.output
        return done

    def json(self, *words: object) -> Any:
        """Run a command with --json and decode stdout."""
        return json.loads(self(*words, "--json").stdout)

    def make_keys(self, *names: str) -> list[Path]:
        """Unencrypted keys; returns the private files."""
        for name in names:
            self("key", "generate", name, "-o", self.folder, "--no-passphrase")
        return [self.folder / f"{name}.key" for name in names]

    def make_workspace(self, tenant: str = "acme") -> Path:
        """A tenant signed by 2 of alice, bob and carol."""
        keys = self.make_keys("alice", "bob", "carol")
        named = [word for key in keys for word in ("--key", key.with_suffix(".pub"))]
        workspace = self.folder / f"ws-{tenant}"
        self("tenant", "create", tenant, *named, "--threshold", 2, "-o", workspace)
        return workspace

    def build(self, workspace: Path, *more: object) -> Any:
        """A release of the little pack and one model file."""
        return self.json(
            "release", "build", workspace, "--pack", self.pack(), "--model", self.model(), *more
        )

    def sign(self, workspace: Path, *names: str) -> None:
        """Sign by each person."""
        for name in names:
            self("release", "sign", workspace, "--key", self.folder / f"{name}.key")

    def pack(self) -> Path:
        """A pack folder with a policy and a case."""
        folder = self.folder / "pack"
        if not folder.exists():
            folder.mkdir()
            (folder / "policy.yaml").write_text(POLICY)
            (folder / "cases.yaml").write_text(CASES)
        return folder

    def model(self, content: bytes = b"GGUF" + bytes(3 << 20)) -> str:
        """A `--model` word for a file of more than one upload chunk."""
        path = self.folder / "small.gguf"
        path.write_bytes(content)
        return f"small={path},n_ctx=512"
