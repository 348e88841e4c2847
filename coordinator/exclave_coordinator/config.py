"""The coordinator's settings: one frozen value, read from coordinator.toml."""

from __future__ import annotations

import difflib
import ipaddress
import re
import tomllib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from exclave_coordinator.errors import SetupError
from exclave_protocol.errors import IdentityFormatError, NoteError
from exclave_protocol.identity import check_trust_domain
from exclave_protocol.note import COSIGNATURE, VerifyKey

MOST = 315_360_000
"""The largest number in any setting: ten years in seconds."""
MOST_LOGS = 4096
"""Outside logs that the witness cosigns at most."""
MOST_WITNESSES = 16
"""Outside witnesses that are asked at most."""
_NAME = re.compile(r"[!#-*,-\[\]-~]{1,255}")
"""A checkpoint's origin (exclave_protocol.checkpoint), and harmless in the settings file."""
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (never dialled)
"""Names of every address, and the loopback address that each includes."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting, its default and its meaning. The texts are also the file's comments."""

    trust_domain: str = field(
        default="example.org",
        metadata={"doc": "SPIFFE trust domain. Part of every name: fixed once agents exist."},
    )
    listen: str = field(
        default="127.0.0.1:7443",
        metadata={"doc": "host:port of the mTLS port (agents and operators). Port 0: any."},
    )
    enroll_listen: str = field(
        default="127.0.0.1:7444",
        metadata={"doc": "host:port where machines without a certificate join or recover."},
    )
    metrics_listen: str = field(
        default="127.0.0.1:7445",
        metadata={"doc": "host:port of Prometheus metrics, plain HTTP: keep it on loopback."},
    )
    witness_listen: str = field(
        default="",
        metadata={
            "doc": "Loopback host:port where the witness answers C2SP tlog-witness, plain HTTP: "
            "others come through a proxy with TLS. Empty: nowhere."
        },
    )
    witness_logs: tuple[str, ...] = field(
        default=(),
        metadata={
            "doc": "C2SP vkeys of outside logs that the witness cosigns, each named after its "
            "log's origin. Empty: only our agents' logs."
        },
    )
    outside_witnesses: tuple[str, ...] = field(
        default=(),
        metadata={
            "doc": "Witnesses asked to cosign the logs of operators and witness, each as "
            "`<URL> <vkey>`."
        },
    )
    outside_witness_seconds: int = field(
        default=60,
        metadata={"doc": "How long what is new in those logs waits before a witness is asked."},
    )
    hostname: str = field(
        default="",
        metadata={"doc": "Name or address that agents dial. Empty: the host of `listen`."},
    )
    agent_certificate_seconds: int = field(
        default=86_400, metadata={"doc": "How long an agent's certificate holds."}
    )
    server_certificate_seconds: int = field(
        default=604_800,
        metadata={"doc": "How long the server's certificate holds; replaced at half its life."},
    )
    operator_certificate_seconds: int = field(
        default=2_592_000, metadata={"doc": "Default life of an operator's certificate."}
    )
    assignment_seconds: int = field(
        default=604_800,
        metadata={"doc": "How long an agent may take to act on a signed assignment."},
    )
    max_sessions: int = field(
        default=10_000, metadata={"doc": "Most agents connected at once (about 75 KB each)."}
    )
    counts_interval_seconds: int = field(
        default=10, metadata={"doc": "Least time between two counts of one agent."}
    )
    drain_seconds: int = field(
        default=5, metadata={"doc": "How long a stopping coordinator waits for its sessions."}
    )
    log_level: str = field(
        default="info", metadata={"doc": "debug, info, warning or error; to standard error."}
    )

    @property
    def dial_host(self) -> str:
        """The host that agents are told to dial."""
        return self.hostname or split_endpoint(self.listen)[0]

    @property
    def server_names(self) -> tuple[str, ...]:
        """Names and addresses in the server's certificate."""
        hosts = {self.dial_host, split_endpoint(self.listen)[0], "localhost", "127.0.0.1"}
        hosts.add(split_endpoint(self.enroll_listen)[0])
        return tuple(sorted(hosts - _EVERY_ADDRESS.keys()))


def load(path: Path) -> Settings:
    """Read coordinator.toml. Raises: SetupError naming the key and what it must be."""
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise SetupError(
            f"{path.name} is missing: run `exclave-coordinator init` first", code="no_home"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _wrong(f"{path.name} is not readable TOML: {error}") from error
    return check(values, path.name)


def check(values: dict[str, Any], where: str) -> Settings:
    """Settings from parsed TOML. Raises: SetupError."""
    known = {item.name: item for item in fields(Settings)}
    for key, value in values.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f": did you mean {close[0]}?" if close else ""
            raise _wrong(f"{where}: unknown setting {key[:64]!r}{hint}")
        wanted = type(known[key].default)
        if wanted is tuple and type(value) is list and all(type(item) is str for item in value):
            values = {**values, key: tuple(value)}
        elif type(value) is not wanted:
            raise _wrong(f"{where}: {key} must be {_ARTICLES[wanted]}")
    return validated(replace(Settings(), **values))


def validated(settings: Settings) -> Settings:
    """The settings, if they make sense together. Raises: SetupError."""
    try:
        check_trust_domain(settings.trust_domain)
    except IdentityFormatError as error:
        raise _wrong(f"trust_domain: {error.message}") from error
    for name in ("listen", "enroll_listen", "metrics_listen"):
        split_endpoint(getattr(settings, name), name)
    for item in fields(Settings):
        value = getattr(settings, item.name)
        if isinstance(value, int) and not 1 <= value <= MOST:
            raise _wrong(f"{item.name}: must be between 1 and {MOST}")
    if settings.witness_listen:
        check_loopback(settings.witness_listen, "witness_listen")
    outside_logs(settings)
    outside_witnesses(settings)
    if settings.log_level not in ("debug", "info", "warning", "error"):
        raise _wrong("log_level: must be debug, info, warning or error")
    if settings.dial_host in _EVERY_ADDRESS:
        raise _wrong(
            "hostname: must be set when `listen` names every address, as agents cannot dial that"
        )
    return settings


def outside_logs(settings: Settings) -> tuple[VerifyKey, ...]:
    """The keys in `witness_logs`. Raises: SetupError naming the place in the list."""
    if len(settings.witness_logs) > MOST_LOGS:
        raise _wrong(f"witness_logs: more than {MOST_LOGS} keys")
    keys = []
    for place, text in enumerate(settings.witness_logs, 1):
        key = _vkey(text, f"witness_logs: entry {place}")
        # Our agents' logs have their leaves here, and to cosign our own log would prove nothing.
        if key.name.startswith(f"{settings.trust_domain}/"):
            raise _wrong(f"witness_logs: entry {place}: a log of our own trust domain")
        keys.append(key)
    return tuple(keys)


def outside_witnesses(settings: Settings) -> tuple[tuple[str, VerifyKey], ...]:
    """(submission prefix, key) of `outside_witnesses`. Raises: SetupError naming the place."""
    if len(settings.outside_witnesses) > MOST_WITNESSES:
        raise _wrong(f"outside_witnesses: more than {MOST_WITNESSES} witnesses")
    found: dict[str, tuple[str, VerifyKey]] = {}
    for place, text in enumerate(settings.outside_witnesses, 1):
        where = f"outside_witnesses: entry {place}"
        url, space, vkey = text.partition(" ")
        if not space or not _is_prefix(url):
            raise _wrong(f"{where}: must be `<URL> <vkey>`, the URL http or https without a query")
        key = _vkey(vkey, where)
        if key.kind != COSIGNATURE:
            raise _wrong(f"{where}: a log's key where a witness's (type 0x04) is expected")
        if key.vkey in found:
            raise _wrong(f"{where}: this witness is in the list already")
        found[key.vkey] = (url.rstrip("/"), key)
    return tuple(found.values())


def _vkey(text: str, where: str) -> VerifyKey:
    try:
        key = VerifyKey.parse(text)
    except NoteError as error:
        raise _wrong(f"{where}: {error.message}") from error
    if _NAME.fullmatch(key.name) is None:
        raise _wrong(f"{where}: its name must be printable ASCII without quote and backslash")
    return key


def _is_prefix(url: str) -> bool:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 (raises ValueError for a port that is none)
    except ValueError:
        return False
    plain = not (parts.query or parts.fragment or parts.username or parts.password)
    whole = parts.scheme in ("http", "https") and bool(parts.hostname) and plain
    return whole and url.isascii() and url.isprintable() and not set(url) & set('"\\?#')


def check_loopback(endpoint: str, name: str) -> None:
    """Refuse what other machines could reach. Raises: SetupError."""
    host = split_endpoint(endpoint, name)[0]
    try:
        inside = ipaddress.ip_address(host).is_loopback
    except ValueError:
        inside = host == "localhost"
    if not inside:
        raise _wrong(
            f"{name}: must be a loopback address, as it is plain HTTP: let a proxy with TLS pass "
            "requests on"
        )


def _wrong(message: str) -> SetupError:
    """A setting that no restart will mend."""
    return SetupError(message, code="config_invalid")


def split_endpoint(value: str, name: str = "endpoint") -> tuple[str, int]:
    """(host, port) of host:port; IPv6 in brackets. Raises: SetupError."""
    host, colon, port = value.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise _wrong(f"{name}: must be host:port with a port from 0 to 65535")
    return host, int(port)


def local_host(endpoint: str) -> str:
    """Where this machine reaches what listens on an endpoint: loopback for every address."""
    host = split_endpoint(endpoint)[0]
    return _EVERY_ADDRESS.get(host, host)


def join_endpoint(host: str, port: int) -> str:
    """host:port, IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def render(settings: Settings) -> str:
    """coordinator.toml with every setting and its meaning."""
    lines = ["# Settings of the Exclave coordinator; restart `serve` after a change.", ""]
    for item in fields(Settings):
        shown = _toml(getattr(settings, item.name))
        lines += [f"# {item.metadata['doc']}", f"{item.name} = {shown}", ""]
    return "\n".join(lines)


def reference() -> str:
    """docs/coordinator-settings.md, which a test holds to this."""
    rows = (
        f"| `{item.name}` | `{_toml(item.default)}` | {item.metadata['doc']} |"
        for item in fields(Settings)
    )
    return _REFERENCE.format(most=MOST, rows="\n".join(rows))


def _toml(value: object) -> str:
    # No setting's text has a quote or a backslash in it: all are names, addresses, keys or words.
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    return str(value) if isinstance(value, int) else f'"{value}"'


_REFERENCE = """\
# Settings of the coordinator

`exclave-coordinator init` writes `coordinator.toml` into the coordinator's home with every setting,
its meaning and its value. A setting that is left out has its default. An unknown key or an
impossible value is refused by its name, and the coordinator does not start:
`exclave-coordinator config check` says so beforehand. A change counts from the next start
(`systemctl restart exclave-coordinator`); agents come back by themselves within seconds.

The home itself is `--home`, or `EXCLAVE_COORDINATOR_HOME`, or `/var/lib/exclave-coordinator`. It
belongs to one user alone. Numbers are whole, from 1 to {most}. `host:port` takes a name or an
address, IPv6 in brackets; `0.0.0.0` and `[::]` mean every address, and then `hostname` must say
what agents dial. As a system service the coordinator has no right to ports below 1024.

| key | default | meaning |
| --- | --- | --- |
{rows}

An example, for a machine that agents reach as `exclave.bank.example`:

```toml
trust_domain = "bank.example"
listen = "0.0.0.0:7443"
enroll_listen = "0.0.0.0:7444"
hostname = "exclave.bank.example"
```

This page is what `exclave-coordinator config reference` prints.
"""

_ARTICLES: dict[type, str] = {str: "a string", int: "an integer", tuple: "a list of strings"}
