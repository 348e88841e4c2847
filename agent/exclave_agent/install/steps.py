"""Install and uninstall as steps: each says what it would change, and changes only that.

Every step looks first. Running an installation again changes nothing, and one that was interrupted
goes on where it stopped; the token is spent only when everything before it stands.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from exclave_agent.config import DEFAULT_HOME
from exclave_agent.install import units
from exclave_agent.install.change import Change, InstallRefused, must
from exclave_agent.install.host import Host
from exclave_agent.install.seal import Seal
from exclave_agent.upgrade.trust import FILE, ROOT_FOLDER, Trust
from exclave_protocol.errors import IdentityFormatError
from exclave_protocol.identity import JoinToken, SpiffeId

SEALS: Final = ("auto", "tpm2", "host", "none")
COMMAND: Final = "/opt/exclave/agent/bin/exclave-agent"
IDENTITY: Final = DEFAULT_HOME / "identity"
JOINED: Final = IDENTITY / "join.json"
TRUST_FILE: Final = ROOT_FOLDER / FILE
PENDING: Final = Path("/run/exclave-install-pending")
"""There while a drop-in has changed and the agent has not been started with it; gone with a boot,
which starts it with everything."""
RUNTIMES: Final = Path("/opt/exclave/runtimes")


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for on the command line."""

    token: bytes = b""
    """Join token, empty: this machine is enrolled already."""
    coordinator: str = ""
    """host:port that the token must lead to; empty: wherever it leads."""
    name: str = ""
    seal: str = "auto"
    reseal: bool = False
    """Replace the credential by a new one."""
    gpu: bool | None = None
    """None: look."""
    trust_enrollment: bool = False
    """Without a token: whose packages may upgrade the agent is believed from its own record."""
    start: bool = True


class Installation:
    """Brings a machine with the package on it to a running, enrolled agent."""

    def __init__(self, host: Host, options: Options, *, random: Callable[[int], bytes]) -> None:
        """`random` gives the sealing key's bytes."""
        self._host = host
        self._options = options
        self._seal = Seal(host, options.seal, random)
        self._stopped = False
        self._token: JoinToken | None = None

    def check(self) -> list[str]:
        """Refuse what cannot work, before anything is changed; returns warnings.

        Raises: InstallRefused.
        """
        host = self._host
        if not host.is_root:
            raise InstallRefused("installing a service needs root: run it with sudo")
        version = units.systemd_version(host)
        if not host.exists(Path("/run/systemd/system")) or version == 0:
            raise InstallRefused(
                "systemd does not run this machine: run `exclave-agent join` and "
                "`exclave-agent run` under your own supervisor"
            )
        if version < units.LEAST_SYSTEMD:
            raise InstallRefused(
                f"systemd {version} is older than {units.LEAST_SYSTEMD}, the oldest that these "
                "units were tested with"
            )
        if not host.exists(units.SHIPPED / units.AGENT):
            raise InstallRefused(
                f"{units.SHIPPED / units.AGENT} is missing: install the package exclave-agent"
            )
        self._check_token()
        self._check_trust()
        self._seal.check(anew=self._options.reseal)
        if not host.glob(RUNTIMES, "*"):
            return [
                "no inference runtime is installed: without the package exclave-runtime-cpu (or "
                "-cuda) the agent answers, and loads no model"
            ]
        return []

    def _check_token(self) -> None:
        options = self._options
        if not options.token:
            if not self._host.exists(JOINED):
                raise InstallRefused(
                    "this machine is not enrolled: give --token-file with a join token "
                    "(`exclave token create`)"
                )
            return
        try:
            token = JoinToken.decode(options.token.decode("ascii", "replace").strip())
        except IdentityFormatError as error:
            raise InstallRefused(
                f"join token: {error.message}; copy it whole, from exj1. to its end"
            ) from error
        if options.coordinator and options.coordinator != token.endpoint:
            raise InstallRefused(
                f"the token leads to {token.endpoint}, not to {options.coordinator}; it was not "
                "used"
            )
        present = enrolled(self._host)
        if present is not None and present.anchor != Trust(token.tenant, token.root_pin):
            raise InstallRefused(
                f"this machine is {present.spiffe} already, and the token is for tenant "
                f"{token.tenant}; it was not used"
            )
        self._token = token

    def changes(self) -> Iterator[Change]:
        """What is to be done, each computed when its turn comes. Raises: InstallRefused."""
        yield from self._users()
        yield from self._home()
        yield from self._seal.first()
        yield from self._join()
        yield from self._reseal()
        yield from self._trust()
        yield from self._drop_ins()
        yield from self._start()

    # --- the steps ------------------------------------------------------------------------

    def _users(self) -> Iterator[Change]:
        if not (self._host.has_user(units.USER) and self._host.has_user(units.WORKER_USER)):
            yield Change(
                f"create the users {units.USER} and {units.WORKER_USER}",
                lambda: must(self._host, ["systemd-sysusers", "exclave-agent.conf"]),
            )

    def _home(self) -> Iterator[Change]:
        owner = self._host.owner(DEFAULT_HOME)
        if owner is None:
            yield Change(
                f"make {DEFAULT_HOME}, for user {units.USER} alone",
                lambda: self._host.make_home(DEFAULT_HOME, units.USER),
            )
        elif owner != units.USER:
            raise InstallRefused(
                f"{DEFAULT_HOME} belongs to {owner}, not to {units.USER}: is it another "
                f"agent's? If it is this one's: chown -R {units.USER}: {DEFAULT_HOME}"
            )

    def _join(self) -> Iterator[Change]:
        if self._host.exists(JOINED):
            return
        name = ["--name", self._options.name] if self._options.name else []
        yield Change(
            "enroll with the coordinator; this spends the token",
            # It becomes the home's user by itself.
            lambda: must(
                self._host,
                [COMMAND, "join", "--home", str(DEFAULT_HOME), *name],
                self._options.token,
            ),
        )

    def _reseal(self) -> Iterator[Change]:
        if self._options.reseal or self._seal.begun:
            self._stopped = True
            yield from self._seal.anew()

    def _trusted(self) -> Trust | None:
        """Whose signed packages this machine shall take; None: not known before it is enrolled."""
        if self._token is not None:
            return Trust(self._token.tenant, self._token.root_pin)
        present = enrolled(self._host)
        return None if present is None else present.anchor

    def _check_trust(self) -> None:
        """Kept where only root writes: a subverted agent must not choose who upgrades it."""
        wanted, there = self._trusted(), self._host.read(TRUST_FILE)
        if wanted is None or there == wanted.encode():
            return
        if there is not None:
            raise InstallRefused(
                f"{TRUST_FILE} trusts another tenant's signers than the enrollment names: if this "
                "machine has changed hands, purge the package first; if not, somebody altered "
                "the agent's identity"
            )
        if self._token is None and not self._options.trust_enrollment:
            # The enrollment's record is the agent's user's to write.
            raise InstallRefused(
                f"{TRUST_FILE} is missing: restore it from the backup of this machine, or give "
                f"--token-file with any token of tenant {wanted.tenant} (it is not spent), or say "
                "--trust-enrollment if nobody but root and the agent ever wrote to this home"
            )

    def _trust(self) -> Iterator[Change]:
        wanted = self._trusted()
        assert wanted is not None, "enrolled by now, or by a token"
        if self._host.read(TRUST_FILE) != (data := wanted.encode()):
            yield Change(
                "pin whose signed packages may upgrade this agent",
                lambda: self._host.write(TRUST_FILE, data, 0o644),
            )

    def _drop_ins(self) -> Iterator[Change]:
        host = self._host
        gpu = units.has_gpu(host) if self._options.gpu is None else self._options.gpu
        for each in units.drop_ins(units.systemd_version(host), gpu):
            there, wanted = host.read(each.path), host.read(each.source) if each.applies else None
            if each.applies and wanted is None:
                raise InstallRefused(f"{each.source} is missing: install the package again")
            if there == wanted:
                continue
            yield self._replace(each.path, wanted)

    def _replace(self, path: Path, wanted: bytes | None) -> Change:
        def do() -> None:
            # Before the change: whoever is interrupted after it finds that a restart is due.
            self._host.write(PENDING, b"", 0o644)
            if wanted is None:
                self._host.remove(path)
            else:
                self._host.write(path, wanted, 0o644)
            if path == units.GPU_SYSUSERS and wanted is not None:
                must(self._host, ["systemd-sysusers", str(path)])

        return Change(f"{'remove' if wanted is None else 'write'} {path}", do)

    def _start(self) -> Iterator[Change]:
        pending = self._host.exists(PENDING)
        if pending:
            yield Change("have systemd read its units again", self._daemon_reload)
        names = list(units.STARTED)
        if self._state("is-enabled", names) != ["enabled"] * len(names):
            yield Change(
                f"enable {', '.join(names)}",
                lambda: must(self._host, ["systemctl", "enable", *names]),
            )
        if not self._options.start:
            self._host.remove(PENDING)
            return
        active = self._state("is-active", names) == ["active"] * len(names)
        if not active or self._stopped or pending:
            verb = "restart" if active and not self._stopped else "start"
            yield Change(f"{verb} the agent, and wait until it is ready", lambda: self._run(verb))

    def _daemon_reload(self) -> None:
        must(self._host, ["systemctl", "daemon-reload"])

    def _state(self, verb: str, names: list[str]) -> list[str]:
        return self._host.run(["systemctl", verb, *names]).out.decode().split()

    def _run(self, verb: str) -> None:
        must(self._host, ["systemctl", "start", *units.STARTED[:-1]])
        done = self._host.run(["systemctl", verb, units.AGENT])
        if done.code == 0 and self._state("is-active", [units.AGENT]) == ["active"]:
            self._host.remove(PENDING)
            return
        lines = self._host.run(
            ["journalctl", "--namespace=exclave", "-u", units.AGENT, "-n", "5", "-o", "cat"]
        )
        raise InstallRefused(
            f"the agent did not become ready: {done.last_line}\n"
            f"{lines.out.decode('utf-8', 'replace').strip()}\n"
            "look at: journalctl --namespace=exclave -u exclave-agent; then run install again"
        )


def uninstall(host: Host) -> Iterator[Change]:
    """Stop the service and take back what `install` put below /etc/systemd; state stays.

    Raises: InstallRefused.
    """
    if not host.is_root:
        raise InstallRefused("uninstalling a service needs root: run it with sudo")
    names = list(units.STARTED)
    states = host.run(["systemctl", "is-enabled", *names]).out.decode().split()
    active = host.run(["systemctl", "is-active", *names]).out.decode().split()
    if "enabled" in states or "active" in active:
        yield Change(
            f"stop and disable {', '.join(names)}",
            lambda: must(host, ["systemctl", "disable", "--now", *names]),
        )
    removed = False
    for each in units.drop_ins(0, gpu=False):
        if host.exists(each.path):
            removed = True
            yield Change(f"remove {each.path}", lambda path=each.path: host.remove(path))  # type: ignore[misc]  # binds the loop's value
    if removed:
        yield Change(
            "have systemd read its units again",
            lambda: must(host, ["systemctl", "daemon-reload"]),
        )


@dataclass(frozen=True, slots=True)
class Enrolled:
    """Who this machine's agent is, by its own record."""

    spiffe: str
    anchor: Trust
    """Whose signed packages it takes."""


def enrolled(host: Host) -> Enrolled | None:
    """None: not enrolled. Raises: InstallRefused, the record is damaged."""
    data = host.read(JOINED)
    if data is None:
        return None
    try:
        record = json.loads(data)
        spiffe = SpiffeId.parse(record["spiffe_id"])
        return Enrolled(str(spiffe), Trust(spiffe.tenant, str(record["root_pin"])))
    except (ValueError, KeyError, TypeError, IdentityFormatError) as error:
        raise InstallRefused(
            f"{JOINED} is damaged: restore the home from a backup, or purge the package and "
            "install with a new token"
        ) from error
