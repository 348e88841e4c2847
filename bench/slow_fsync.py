"""A disk whose fsync takes a stated time, for both sides of a comparison alike.

How fast fsync returns differs by two orders of magnitude between disks (0.1 ms with a
battery-backed cache, 5 ms and more without), and decides any comparison of durable appends.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

static void wait_as_a_disk(void) {
    const char *text = getenv("SLOW_FSYNC_US");
    long us = text ? atol(text) : 0;
    struct timespec time = {us / 1000000, (us % 1000000) * 1000};
    nanosleep(&time, NULL);
}

int fsync(int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    int result = real(fd);
    wait_as_a_disk();
    return result;
}

int fdatasync(int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    int result = real(fd);
    wait_as_a_disk();
    return result;
}
"""


def environment(folder: Path, milliseconds: float) -> dict[str, str] | None:
    """The environment of a process on that disk; None where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    library = folder / "slow_fsync.so"
    if not library.exists():
        source = folder / "slow_fsync.c"
        source.write_text(SOURCE)
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"],
            check=True,
            timeout=60,
        )
    return {
        **os.environ,
        "LD_PRELOAD": str(library),
        "SLOW_FSYNC_US": str(round(milliseconds * 1000)),
    }
