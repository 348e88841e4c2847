"""Whether a release's policy fits its models, by what the centre knows of them unopened."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from exclave_ctl.errors import CtlError
from exclave_ctl.workspace import Workspace
from exclave_protocol.endpoint import ACTIONS, Endpoint
from exclave_protocol.errors import ReleaseError
from exclave_protocol.release import ModelEntry

if TYPE_CHECKING:
    from exclave_policy.beside import Known

_MOST: Final = {
    "llama": frozenset({"chat", "complete", "embed", "rerank"}),
    "lora": frozenset({"chat", "complete"}),
    "onnx": frozenset({"infer"}),
    "remote": frozenset(ACTIONS),
}
"""What models of a runtime can serve at most: which of it a file does, the agent finds out."""


def check_fit(workspace: Workspace, pack: bytes, models: Iterable[ModelEntry]) -> None:
    """Hold a checked pack against the models that it is released with.

    Raises: CtlError listing everything that does not fit.
    """
    from exclave_policy.beside import problems_of, unpriced
    from exclave_policy.compile import compile_pack
    from exclave_policy.pack import unpack

    policy = compile_pack(unpack(pack))
    known = {model.name: _known(workspace, model) for model in models}
    found = problems_of(policy, known) + unpriced(policy, known)
    if found:
        lines = "\n".join(f"  {problem}" for problem in found)
        raise CtlError(
            f"the policy does not fit the release's models:\n{lines}",
            "correct the policy, or the models that --model names",
        )


def _known(workspace: Workspace, model: ModelEntry) -> Known:
    from exclave_policy.beside import Known

    most = _MOST.get(model.runtime, frozenset())
    if model.runtime != "remote":
        return Known(most, False, str(model.parameters.get("price_currency", "")))
    path = workspace.find(model.sha256)
    if path is None:  # a model kept from a release that was built elsewhere
        return Known(most, True)
    try:
        endpoint = Endpoint.decode(path.read_bytes())
    except ReleaseError as error:
        raise CtlError(f"model {model.name}: {error.message}") from error
    price = endpoint.price
    return Known(frozenset(endpoint.actions), True, "" if price is None else price.currency)
