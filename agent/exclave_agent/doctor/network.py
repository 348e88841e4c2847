"""The way to the coordinator, stage by stage: the first that fails is the one to mend."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from exclave_agent.doctor.report import Check, fail, ok, skip, warn
from exclave_agent.doctor.site import Known, Site
from exclave_agent.errors import AgentError

STAGE_SECONDS: Final = 5.0
REMEDIES: Final = {
    "evicted": "ask your operator for a new token, then: exclave-agent join --again --token-file T",
    "banned": "this agent may not come back; ask your operator why",
    "expired": "start the agent: it recovers by proving its key",
}
"""By the code of the refusal."""
PROXIES: Final = ("grpc_proxy", "https_proxy", "http_proxy")
"""Variables that gRPC asks for, the first that is set counts; in lower case only."""
EXEMPT: Final = ("no_grpc_proxy", "no_proxy")


@dataclass(frozen=True, slots=True)
class Port:
    """One of the coordinator's two ports."""

    name: str
    host: str
    port: int

    @classmethod
    def parse(cls, name: str, endpoint: str) -> Port:
        """From `host:port` or `[v6]:port`, as the identity has it."""
        host, _, port = endpoint.rpartition(":")
        return cls(name, host.strip("[]"), int(port) if port.isdigit() else 0)

    @property
    def endpoint(self) -> str:
        """As gRPC takes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Broken(Exception):
    """A stage did not succeed."""

    def __init__(self, stage: str, detail: str, remedy: str) -> None:
        super().__init__(stage)
        self.stage, self.detail, self.remedy = stage, detail, remedy


def both(known: Known) -> tuple[Port, Port]:
    """The mTLS port, then the one for those without a certificate."""
    return (
        Port.parse("coordinator", known.session_endpoint),
        Port.parse("enrollment", known.enroll_endpoint),
    )


def ports(site: Site) -> Iterator[Check]:
    """DNS, TCP, TLS, gRPC, for both ports."""
    known = site.known
    if isinstance(known, AgentError):
        yield skip("coordinator", "which one is not known before the agent has joined")
        return
    for port in both(known):
        if site.offline:
            yield skip(port.name, f"{port.endpoint} not tried (--offline)")
            continue
        try:
            yield ok(port.name, _stages(site, known, port))
        except Broken as stop:
            yield fail(f"{port.name} {stop.stage}", stop.detail, stop.remedy)


def _stages(site: Site, known: Known, port: Port) -> str:
    """What was reached. Raises: Broken."""
    addresses = _dns(site, port)
    version = _tls(known, port, _tcp(port, addresses))
    reached = f"{port.endpoint} reached: DNS, TCP, {version}"
    if known.identity is None and port.name == "coordinator":
        return f"{reached}; gRPC not tried, as the agent's key cannot be used from here"
    return f"{reached}, {_grpc(known, port)}"


def connect(site: Site, port: Port) -> None:
    """Connect to a port, and close. Raises: Broken."""
    _tcp(port, _dns(site, port)).close()


def _dns(site: Site, port: Port) -> int:
    try:
        return len(site.machine.resolve(port.host, port.port))
    except TimeoutError as error:
        raise Broken(
            "DNS", f"{port.host}: no answer", "is the resolver up? (resolvectl status)"
        ) from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise Broken("DNS", f"{port.host}: {reason}", "check the name and the resolver") from error


def _tcp(port: Port, addresses: int) -> socket.socket:
    try:
        return socket.create_connection((port.host, port.port), timeout=STAGE_SECONDS)
    except OSError as error:
        late = isinstance(error, TimeoutError)
        reason = "no answer" if late else (error.strerror or type(error).__name__)
        raise Broken(
            "TCP",
            f"{port.endpoint} ({addresses} addresses): {reason}",
            "does a firewall drop it?" if late else "is the coordinator running, on that port?",
        ) from error


def _tls(known: Known, port: Port, plain: socket.socket) -> str:
    """The protocol's version, once the server is found to be the coordinator."""
    with plain:
        try:
            # The client's certificate is left to the gRPC stage: whether a server takes it, TLS
            # 1.3 tells only after the handshake.
            context = ssl.create_default_context(cadata=known.ca_pem.decode("ascii", "replace"))
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.set_alpn_protocols(["h2"])
            with context.wrap_socket(plain, server_hostname=port.host) as secure:
                if secure.selected_alpn_protocol() != "h2":
                    raise Broken(
                        "TLS",
                        f"{port.endpoint} speaks TLS, and not HTTP/2",
                        "something in between ends the connection: let it pass through untouched",
                    )
                return secure.version() or "TLS"
        except ssl.SSLCertVerificationError as error:
            raise Broken(
                "TLS",
                f"{port.endpoint}: {error.verify_message}",
                "is it the coordinator this agent joined, under a name that its certificate has? "
                "is the clock right? a proxy that opens TLS must let this pass",
            ) from error
        except OSError as error:
            reason = getattr(error, "reason", None) or error.strerror or type(error).__name__
            raise Broken(
                "TLS",
                f"{port.endpoint}: {reason}",
                "is it the coordinator's port, and no proxy in between? TLS 1.3 must pass",
            ) from error


def _grpc(known: Known, port: Port) -> str:
    from exclave_agent.doctor import reach

    try:
        if port.name == "coordinator":
            assert known.identity is not None
            return f"gRPC: {reach.session(known.identity)}"
        return f"gRPC: {reach.enrollment(port.endpoint, known.ca_pem)}"
    except AgentError as error:
        remedy = REMEDIES.get(
            error.code,
            "TLS alone works: is a proxy set for gRPC, and does the coordinator know this agent?",
        )
        raise Broken("gRPC", error.message, remedy) from error


# --- proxies ------------------------------------------------------------------------------


def proxies(site: Site) -> Iterator[Check]:
    """A proxy that gRPC would take, and that breaks mutual TLS unless it tunnels."""
    known = site.known
    hosts = [] if isinstance(known, AgentError) else [port.host for port in both(known)]
    env = site.machine.environ
    name = next((one for one in PROXIES if env.get(one)), "")
    if not name:
        return
    missed = sorted({host for host in hosts if not exempt(host, env)})
    if not missed:
        yield ok("proxy", f"{name} is set, and the coordinator is exempt from it")
        return
    yield warn(
        "proxy",
        f"{name} is set in this shell: gRPC goes through it to {', '.join(missed)}",
        f"unless the proxy tunnels (CONNECT), add no_grpc_proxy={','.join(missed)}; for the "
        "service: systemctl edit exclave-agent, Environment=",
    )


def exempt(host: str, env: Mapping[str, str]) -> bool:
    """Whether gRPC goes past the proxy: an entry is the host's end, or a network it lies in."""
    listed = next((env[name] for name in EXEMPT if env.get(name)), "")
    entries = [entry.strip() for entry in listed.split(",")]
    return any(entry and (host.endswith(entry) or _inside(host, entry)) for entry in entries)


def _inside(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
