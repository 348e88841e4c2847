"""A disk that loses power: what was written and not yet synced may be there, not there, or torn.

A library that is loaded before any other records each write, cut and sync of a process, in order,
and what the process says meanwhile. `states` then makes the files as a power cut at any of these
moments may leave them: all that was synced is there; of each write since, everything, nothing, or
its first sectors (the model of "All File Systems Are Not Created Equal", OSDI 2014, for a file
system that keeps order only where it is told to).
"""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SECTOR = 512
SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int journal = -2;
static ssize_t (*real_write)(int, const void *, size_t);

static void record(char kind, const char *path, uint64_t at, const void *data, uint64_t size) {
    if (journal == -2) {
        const char *name = getenv("POWER_JOURNAL");
        journal = name ? open(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
        real_write = (ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    }
    if (journal < 0) return;
    uint64_t length = strlen(path);
    char *all = malloc(25 + length + size);
    all[0] = kind;
    memcpy(all + 1, &length, 8);
    memcpy(all + 9, &at, 8);
    memcpy(all + 17, &size, 8);
    memcpy(all + 25, path, length);
    if (data) memcpy(all + 25 + length, data, size);
    size_t total = 25 + length + (data ? size : 0);
    if (real_write(journal, all, total) != (ssize_t)total) abort();
    free(all);
}

static const char *name_of(int fd, char *path, size_t room) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, room - 1);
    path[n < 0 ? 0 : n] = 0;
    const char *base = strrchr(path, '/');
    /* The index of a write-ahead log is made anew after a crash: nothing in it is relied on. */
    if (!base || !strstr(base, ".db") || strstr(base, "-shm")) return NULL;
    return base + 1;
}

void power_note(const char *text) {
    pthread_mutex_lock(&lock);
    record('N', text, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
}

#define AROUND(call, kind, at, data, size)                      \
    char path[4096];                                            \
    const char *name = name_of(fd, path, sizeof path);          \
    if (!name) return call;                                     \
    pthread_mutex_lock(&lock);                                  \
    __typeof__(call) result = call;                             \
    if (result >= 0) record(kind, name, at, data, size);        \
    pthread_mutex_unlock(&lock);                                \
    return result;

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    ssize_t (*real)(int, const void *, size_t, off64_t) =
        (ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    AROUND(real(fd, data, size, at), 'W', (uint64_t)at, data, (uint64_t)result)
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    return pwrite64(fd, data, size, at);
}

int ftruncate64(int fd, off64_t size) {
    int (*real)(int, off64_t) = (int (*)(int, off64_t))dlsym(RTLD_NEXT, "ftruncate64");
    AROUND(real(fd, size), 'T', (uint64_t)size, NULL, 0)
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

int fsync(int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    AROUND(real(fd), 'S', 0, NULL, 0)
}

int fdatasync(int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    AROUND(real(fd), 'S', 0, NULL, 0)
}
"""


@dataclass(frozen=True, slots=True)
class Op:
    """One thing that the process did."""

    kind: str
    """W(rite), T(runcate), S(ync), N(ote)."""
    name: str
    """Of the file; of a note, what was said."""
    at: int
    data: bytes


def environment(folder: Path, journal: Path) -> dict[str, str] | None:
    """The environment of a process whose disk is recorded; None where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    library = folder / "power.so"
    if not library.exists():
        source = folder / "power.c"
        source.write_text(SOURCE)
        command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"]
        subprocess.run(command, check=True, timeout=60)
    return {**os.environ, "LD_PRELOAD": str(library), "POWER_JOURNAL": str(journal)}


def note(text: str) -> None:
    """In a recorded process: say something, in order with what is written."""
    ctypes.CDLL(None).power_note(text.encode())


def ops(journal: Path) -> list[Op]:
    """What was recorded, in order."""
    data, place, found = journal.read_bytes(), 0, list[Op]()
    while place < len(data):
        kind = chr(data[place])
        length, at, size = struct.unpack_from("<QQQ", data, place + 1)
        place += 25
        name = data[place : place + length].decode()
        place += length
        body = data[place : place + size] if kind == "W" else b""
        place += len(body)
        found.append(Op(kind, name, at, body))
    return found


def said(done: Sequence[Op]) -> list[str]:
    """The notes among them."""
    return [op.name for op in done if op.kind == "N"]


def cut(before: Path, after: Path, done: Sequence[Op], chance: random.Random) -> None:
    """Make `after` of the home `before`, as a power cut after these operations may leave it."""
    shutil.copytree(before, after)
    synced = {op.name: place for place, op in enumerate(done) if op.kind == "S"}
    files: dict[str, bytearray] = {}
    for place, op in enumerate(done):
        if op.kind not in "WT":
            continue
        path = after / op.name
        if op.name not in files:
            files[op.name] = bytearray(path.read_bytes() if path.exists() else b"")
        held = files[op.name]
        data, fate = op.data, 1.0 if place < synced.get(op.name, -1) else chance.random()
        if fate < 0.4:
            continue
        if op.kind == "T":
            del held[op.at :]
            held.extend(bytes(op.at - len(held)))
            continue
        if fate < 0.6:
            data = data[: chance.randrange(0, len(data) + 1, SECTOR)]
        held.extend(bytes(max(0, op.at + len(data) - len(held))))
        held[op.at : op.at + len(data)] = data
    for name, held in files.items():
        (after / name).write_bytes(held)


def states(
    before: Path, folder: Path, done: Sequence[Op], count: int, chance: random.Random
) -> Iterator[tuple[Path, list[str]]]:
    """Homes after a cut, and what had been said by then; each is gone when the next is made."""
    target = folder / "after"
    for _ in range(count):
        end = chance.randrange(1, len(done) + 1)
        shutil.rmtree(target, ignore_errors=True)
        cut(before, target, done[:end], chance)
        yield target, said(done[:end])
