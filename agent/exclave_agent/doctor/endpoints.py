"""Remote models of the active release: is there a key, and a way to where it goes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from exclave_agent.doctor.kept import artifact
from exclave_agent.doctor.network import Broken, Port, connect
from exclave_agent.doctor.report import Check, fail, ok, skip, warn
from exclave_agent.doctor.site import Site
from exclave_agent.identity.secrets import CREDENTIAL, files_of
from exclave_protocol.endpoint import Endpoint
from exclave_protocol.errors import ReleaseError

NAME: Final = "remote models"
LIBRARY: Final = "openai"


def endpoints(site: Site) -> Iterator[Check]:
    """A line for each remote model; none where the release has none."""
    manifest = site.kept.manifest if site.kept is not None else None
    remote = [one for one in manifest.models if one.runtime == "remote"] if manifest else []
    if remote and not site.machine.has_module(LIBRARY):
        yield fail(
            NAME,
            f"the release has some, and the library {LIBRARY} is not installed",
            "install it with the agent: pip install 'exclave[agent,remote]'",
        )
        return
    for model in remote:
        data = site.machine.read(artifact(site.home, model.sha256))
        if data is None:
            yield skip(NAME, f"{model.name}: its document has not been fetched")
            continue
        try:
            yield _endpoint(site, model.name, Endpoint.decode(data))
        except ReleaseError as error:
            yield fail(NAME, f"{model.name}: {error.message}", "have the release built again")


def _endpoint(site: Site, name: str, endpoint: Endpoint) -> Check:
    credential = f"{CREDENTIAL}{endpoint.secret}"
    kept = any(site.machine.stat(path) for path in files_of(site.home, endpoint.secret))
    if endpoint.secret and not kept and not _given(site, credential):
        return warn(
            NAME,
            f"{name}: no key {endpoint.secret}",
            f"exclave-agent secret set {endpoint.secret}",
        )
    parts = urlsplit(endpoint.base_url)
    port = Port(name, endpoint.host, parts.port or (443 if parts.scheme == "https" else 80))
    if site.offline:
        return skip(NAME, f"{name}: {port.endpoint} not tried (--offline)")
    if site.settings.remote_proxy:
        return skip(NAME, f"{name}: {port.endpoint} is reached through remote_proxy; not tried")
    try:
        connect(site, port)
    except Broken as stop:
        return warn(NAME, f"{name}: {stop.stage}: {stop.detail}", stop.remedy)
    if denied := site.service.get("IPAddressDeny") if not site.no_service else "":
        return warn(
            NAME,
            f"{name}: {port.endpoint} reached from here, but the unit limits addresses ({denied})",
            "systemctl edit exclave-agent: IPAddressAllow= with the endpoint's addresses",
        )
    return ok(NAME, f"{name}: {port.endpoint} reached: DNS, TCP")


def _given(site: Site, credential: str) -> bool:
    """Whether the unit is given a credential of that name."""
    if site.no_service:
        return False
    shown = (site.service.get(key, "") for key in ("LoadCredential", "LoadCredentialEncrypted"))
    return any(word.partition(":")[0] == credential for text in shown for word in text.split())
