"""The pages for day two, command by command as they stand there, on a booted Debian.

Where a page says that something happens between two of its blocks (a machine is lost, a name
changes), the test does that, and nothing else: no line of a block is replaced.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from exclave_testing.installed import CENTRE, INSIDE, Installed, binds
from exclave_testing.mainjob import PACKS
from exclave_testing.pages import Block, Terminal, blocks
from exclave_testing.processes import ROOT
from exclave_testing.repacked import repack
from exclave_testing.sandbox import Sandbox

AGENTS, CENTRES, INSTALL = (
    ROOT / "docs" / name for name in ("runbook.md", "coordinator-runbook.md", "install.md")
)
DESK = "/root/desk"
"""Where root stands: packages, tokens, the workspace and the people's keys lie here."""
PROFILE = "/root/exclave-admin"
NEXT = "0.9.0"

AGENT_SAYS: dict[str, tuple[str, ...]] = {
    "Watch 1": (r"^coordinator  connected", r"^ok   seal: ", r"^ActiveState=active", "exclave-wor"),
    "Watch 2": (r'exclave_decisions_total\{.*outcome="answered"\} 1.0',),
    "API keys 1": (r"key \w{8} is revoked", r"revoked +analyst +scoring"),
    "Settings and limits 1": ("log_level",),
    "Settings and limits 2": (r"^ok   worker hardening", r"\d+ ok"),
    "Keys that renew themselves, and those that do not 1": (
        r"^would stop the agent",
        r"^stop the agent ... done",
        r"^start the agent, .* done",
        r"^ok   seal: sealed with the host key",
        r"^ok   identity",
    ),
    "Back up 1": (r"^[1-9]\d$",),
    "Back up 2": ("45 seal.txt",),
    "Read an old copy 1": (r"^\d+ leaves verify", r"RESULT +.*outcome=answered", "output: "),
    "Move to another machine 1": ("stop and disable .*done",),
    "Move to another machine 2": (
        "this machine is spiffe://bank.example/tenant/acme/agent/north",
        r"^release      version 1",
        r"^\d+ leaves verify",
        "put it in the place of .* done",
    ),
    "Upgrade 1": ("2 of 2 signatures", "published"),
    "Upgrade 2": (
        f"{NEXT} would be installed",
        rf"upgraded from .* to {NEXT}",
        r"^upgrade .* done",
    ),
    "Upgrade 3": ("^active$",),
    "Another address of the coordinator 1": ("joined as spiffe://", "^coordinator  connected"),
    "Evicted, banned, suspected 1": ("acme/north is evicted",),
    "Evicted, banned, suspected 2": ("joined as spiffe://", "^coordinator  connected"),
    "Values that end 1": (
        r"^legal hold [0-9a-f]{32} stands",
        r"^[0-9a-f]{32}  \S+  CASE-2026-17  ",
        r"is lifted \(CASE-2026-17\)",
        r"^destroyed: the values of [1-9]",
        r"^\d+ leaves verify",
    ),
    "A full disk 1": (r"^Vacuuming done", r"^ok   disk"),
    "A wrong clock 1": (r"^NTPSynchronized=(yes|no)", r'"name": "clock", "result": "(ok|warn)"'),
    "Ask for help 1": ("MANIFEST.txt", "look into it, then hand it on yourself"),
    "Give it up 1": ("WITNESSED", "acme/north is banned"),
    "Give it up 2": ("Purging configuration files for exclave-agent",),
}
CENTRE_SAYS: dict[str, tuple[str, ...]] = {
    "Make it 1": ("coordinator of bank.example made", "valid"),
    "Start it 1": ("^active$", r"\bok\b"),
    "Back up 1": ("first.backup",),
    "Back up 2": (r"\.backup$",),
    "Restore 1": (r"^\d+ files of schema \d+, written by version", r"^ok    database"),
    "Upgrade 1": ("^active$",),
    "Watch 1": ("^ActiveState=active", "^exclave_coordinator_sessions"),
}


@contextmanager
def desk(tree: Path, folder: Path, packages: Path, name: str) -> Iterator[Sandbox]:
    """A booted Debian with our packages in the folder where root stands."""
    with Sandbox(tree, name, folder, binds=binds(packages)) as box:
        # What dpkg would otherwise wait for: that a power cut now leaves everything on the disk.
        box.write_text("/etc/dpkg/dpkg.cfg.d/unsafe-io", "force-unsafe-io\n")
        box.sh(f"mkdir -p {DESK} && cp {INSIDE['packages']}/*.deb {DESK}")
        yield box


# --- the centre ---------------------------------------------------------------------------


def test_the_coordinators_runbook(bookworm: Path, packages: Path, tmp_path: Path) -> None:
    with desk(bookworm, tmp_path, packages, "centre") as box:
        terminal = Terminal(box, DESK)
        terminal.run(CENTRES, blocks(CENTRES, "bash")[0])
        found = blocks(CENTRES, "bash runbook")
        assert set(CENTRE_SAYS) <= {block.name for block in found}, "blocks have other names now"
        for block in found:
            terminal.run(CENTRES, block, CENTRE_SAYS.get(block.name, ()))


# --- the agent ----------------------------------------------------------------------------


class Story:
    """What happens on the agent's machine between the blocks of its runbook."""

    def __init__(self, box: Sandbox, terminal: Terminal, folder: Path, packages: Path) -> None:
        self.up = Installed(box)
        self._box = box
        self._terminal = terminal
        self._folder = folder
        self._packages = packages
        self._first_key = ""
        self.before: dict[str, Callable[[], None]] = {
            "Watch 2": self.ask,
            "Move to another machine 2": self.another_machine,
            "Upgrade 1": self.a_new_version,
            "Another address of the coordinator 1": self.another_name,
            "Values that end 1": self.somebody_asked,
        }
        self.after: dict[str, Callable[[], None]] = {
            "API keys 1": self.keys_are_exchanged,
            "Keys that renew themselves, and those that do not 1": self.ask,
            "Move to another machine 2": self.ask,
            "Upgrade 2": self.ask,
            "Give it up 2": self.nothing_is_left,
        }

    def centre(self) -> None:
        """A coordinator as another page makes it, and a signed release with the small model."""
        box = self._box
        box.sh("echo 127.0.0.1 centre.example new.centre.example >> /etc/hosts")
        self.up.dpkg("exclave-coordinator", "exclave-cli")
        box.sh(
            "exclave-coordinator init --trust-domain bank.example --hostname centre.example "
            "--listen 0.0.0.0:7443 --enroll-listen 0.0.0.0:7444\n"
            f"systemctl enable --now exclave-coordinator\nmv {CENTRE}/operators/admin {PROFILE}"
        )
        model = f"fraud={INSIDE['fraud']}/model.onnx,runtime=onnx"
        self.type(
            f"export EXCLAVE_PROFILE={PROFILE}\n"
            "for who in alice bob; do exclave key generate $who -o . --no-passphrase; done\n"
            "exclave tenant create acme --key alice.pub --key bob.pub --threshold 2\n"
            f"exclave release build acme --pack {INSIDE['packs']}/fraud --model {model}\n"
            "for who in alice bob; do exclave release sign acme --key $who.key; done\n"
            "exclave release publish acme\n"
            "exclave token create acme --agent north --workspace acme -o north.token"
        )

    def install(self) -> None:
        """The block of install.md, without the line for RPM systems."""
        (block, *_) = blocks(INSTALL, "bash")
        lines = block.text.splitlines()
        ours = [line for line in lines if not line.startswith("dnf ")]
        assert len(lines) - len(ours) == 1, "one line is for RPM systems"
        text = "\n".join(ours)
        said = self._terminal.run(INSTALL, Block(block.heading, 1, block.line, text), ("^exk_",))
        self._first_key = next(line for line in said.splitlines() if line.startswith("exk_"))
        self.type("exclave rollout start acme --wait")
        self.up.wait_release()

    def type(self, text: str) -> str:
        """What the page leaves to others."""
        code, out = self._terminal.type(text)
        assert code == 0, out
        return out

    # --- between the blocks ----------------------------------------------------------------

    def ask(self, key: str = "") -> None:
        """An application asks its model, and is answered."""
        self.up.key = key or self._first_key
        row = json.loads((PACKS / "fraud" / "fixtures.json").read_text())["rows"][0]["features"]
        tensor = {"name": "features", "shape": [1, len(row)], "datatype": "FP32", "data": row}
        self.up.wait_release()
        code, said = self.up.call("/v2/models/fraud/infer", {"inputs": [tensor]})
        assert code == 200, said

    def keys_are_exchanged(self) -> None:
        """The new key works, the old one does not."""
        shown = self._box.sh("exclave-agent key list")
        assert shown.count("scoring") == 2 and shown.count("revoked") == 1
        self.ask(self._box.read_text(f"{DESK}/scoring.key").strip())

    def another_machine(self) -> None:
        """One that has the packages, and neither the home nor the secret of the old one."""
        box = self._box
        box.sh("dpkg --purge exclave-agent exclave-runtime-cpu; rm /var/lib/systemd/cred*.secret")
        assert box.run(["id", "exclave"], code=None).returncode != 0
        # The users' numbers are others there.
        box.sh("useradd --system elder")
        self.up.dpkg("exclave-agent", "exclave-runtime-cpu")

    def a_new_version(self) -> None:
        """Its package lies where root stands, beside the one that runs."""
        self._box.write_text("/etc/exclave/upgrade.toml", "settle_seconds = 3\n")
        repack(self._packages / "exclave-agent_0.1.0_amd64.deb", NEXT, self._folder)
        name = f"exclave-agent_{NEXT}_amd64.deb"
        self._box.copy_in(self._folder / name, f"{DESK}/{name}")

    def another_name(self) -> None:
        """As the prose says: the centre's own settings, and the operators' profiles."""
        self.type(
            f"sed -i 's/^hostname = .*/hostname = \"new.centre.example\"/' "
            f"{CENTRE}/coordinator.toml\nsystemctl restart exclave-coordinator\n"
            f"sed -i 's/\"centre.example:/\"new.centre.example:/' {PROFILE}/profile.json"
        )

    def somebody_asked(self) -> None:
        """Whose subject is the key's own id."""
        self.ask()
        self.type(f"export SUBJECT={self.up.key.split('_')[1]}")

    def nothing_is_left(self) -> None:
        """No unit, no user, no journal of ours."""
        box = self._box
        units = box.sh("systemctl list-unit-files --no-legend 'exclave-*'; ls /etc/systemd/system")
        assert "exclave-agent" not in units and "exclave-worker" not in units
        assert box.run(["id", "exclave"], code=None).returncode != 0
        assert box.sh("ls -d /var/log/journal/*.exclave 2>/dev/null || true") == ""


def test_the_agents_runbook(bookworm: Path, packages: Path, tmp_path: Path) -> None:
    with desk(bookworm, tmp_path, packages, "agent") as box:
        terminal = Terminal(box, DESK)
        story = Story(box, terminal, tmp_path, packages)
        story.centre()
        story.install()
        found = blocks(AGENTS, "bash runbook")
        assert [block.name for block in found] == list(AGENT_SAYS), "blocks have other names now"
        for block in found:
            story.before.get(block.name, lambda: None)()
            terminal.run(AGENTS, block, AGENT_SAYS[block.name])
            story.after.get(block.name, lambda: None)()
