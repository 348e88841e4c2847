"""`exclave-upgrade`: the root side's program, run by exclave-upgrade.service and nobody else."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from functools import partial
from pathlib import Path
from typing import Final

from exclave_agent.config import DEFAULT_HOME
from exclave_agent.upgrade.dpkg import Dpkg
from exclave_agent.upgrade.engine import Engine
from exclave_agent.upgrade.foothold import PROGRAM, LinkedCopy
from exclave_agent.upgrade.mailbox import Mailbox
from exclave_agent.upgrade.pace import SystemPace
from exclave_agent.upgrade.ports import Foothold, InstallFailed, Pace, PackageManager, Stopped
from exclave_agent.upgrade.probe import SocketProbe
from exclave_agent.upgrade.rpm import Rpm
from exclave_agent.upgrade.settings import read_patience
from exclave_agent.upgrade.shelf import Shelf
from exclave_agent.upgrade.state import Book, Phase
from exclave_agent.upgrade.systemctl import Systemctl
from exclave_agent.upgrade.trust import ROOT_FOLDER
from exclave_agent.upgrade.vet import Vetting
from exclave_protocol.packages import AGENT
from exclave_service.journal import JournalHandler, is_our_stderr

RUNNING: Final = Path("/run/exclave-upgrade/running")
"""While it exists, the package's scripts restart nothing: the engine does, and watches."""
LOG: Final = "package-manager.log"
EXIT_FAILED: Final = 1
"""An error of this program or of the disk: the unit tries again after a while."""
EXIT_UNWELL: Final = 70
"""Neither version is healthy. exclave-upgrade.service does not try again: never change it alone."""

log = logging.getLogger(__name__)


def main() -> int:
    """One request, or the rest of one; returns the exit code."""
    os.umask(0o022)
    logging.basicConfig(level=logging.INFO, handlers=[_handler()])
    logging.getLogger("tuf").setLevel(logging.WARNING)
    if os.geteuid() != 0:
        log.error("only root can upgrade the package: this is exclave-upgrade.service's program")
        return EXIT_FAILED
    pace = SystemPace()
    pace.listen()
    RUNNING.parent.mkdir(mode=0o755, exist_ok=True)
    RUNNING.touch()
    try:
        state = build(pace).run()
    except Stopped:
        log.warning("told to stop: what was begun goes on at the next start")
        return 0
    except OSError as error:
        log.critical("cannot go on: %s: %s", error.strerror, error.filename)
        return EXIT_FAILED
    finally:
        RUNNING.unlink(missing_ok=True)
    return EXIT_UNWELL if state is not None and state.phase is Phase.FAILED else 0


def _handler() -> logging.Handler:
    """To the journal with each line's own priority, where stderr leads there anyway."""
    if is_our_stderr():
        with contextlib.suppress(OSError):
            return JournalHandler("exclave-upgrade")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    return handler


def build(
    pace: Pace,
    *,
    folder: Path = ROOT_FOLDER,
    home: Path = DEFAULT_HOME,
    foothold: Foothold | None = None,
) -> Engine:
    """The engine over the real machine."""
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    mailbox, shelf, book = Mailbox(home), Shelf(folder), Book(folder)
    find = partial(package_manager, folder / LOG, pace)
    vetting = Vetting(folder, mailbox, shelf, find, disks=(PROGRAM, folder))
    return Engine(
        counter=mailbox,
        vet=vetting.vet,
        book=book,
        shelf=shelf,
        packages=_begun_with(book, folder / LOG, pace) or find() or Dpkg(folder / LOG, pace),
        services=Systemctl(),
        probe=SocketProbe(home),
        foothold=foothold or LinkedCopy(),
        pace=pace,
        patience=read_patience,
    )


def package_manager(output: Path, pace: Pace) -> PackageManager | None:
    """The one that installed the agent; None: neither did."""
    for manager in _managers(output, pace):
        with contextlib.suppress(InstallFailed):
            if manager.installed(AGENT) is not None:
                return manager
    return None


def _begun_with(book: Book, output: Path, pace: Pace) -> PackageManager | None:
    """The one of an unfinished upgrade: whatever is left of the installation by now."""
    state = book.load() if book.unfinished else None
    if state is None or state.present is None:
        return None
    form = state.present.label.format
    return next(m for m in _managers(output, pace) if m.form == form)


def _managers(output: Path, pace: Pace) -> tuple[PackageManager, ...]:
    return (Dpkg(output, pace), Rpm(output, pace))


if __name__ == "__main__":
    sys.exit(main())
