"""What a step of an installation is: words and a deed, and the error when it does not work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from exclave_agent.errors import AgentError
from exclave_agent.install.host import Host, Ran


class InstallRefused(AgentError):
    """The machine is not as it must be, or a step failed; the message says which and what to do."""

    code = "install_refused"


@dataclass(frozen=True, slots=True)
class Change:
    """One thing to do, in words and as a deed."""

    what: str
    do: Callable[[], object]


def must(host: Host, argv: Sequence[str], stdin: bytes = b"") -> Ran:
    """Run a command that has to end well. Raises: InstallRefused, with its words."""
    done = host.run(argv, stdin)
    if done.code != 0:
        said = done.err.strip() or done.last_line
        raise InstallRefused(f"`{' '.join(argv[:2])}` failed: {said.removeprefix('error: ')}")
    return done
