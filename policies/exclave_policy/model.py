"""The values of the policy language: what is asked and what is answered."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

MODEL_ACTIONS = ("chat", "complete", "embed", "rerank", "infer")
"""Everything a caller can ask of a model."""

RESOURCES = {"call_tool": "tools", "use_endpoint": "endpoints", "use_secret": "secrets"}
"""What else a request may need, and the field of a rule that names it: to offer a tool (a
function) to a model, to send data to a remote endpoint, to use a secret (the key of one)."""

ACTIONS = (*MODEL_ACTIONS, *RESOURCES)

Effect: TypeAlias = Literal["allow", "deny", "oblige"]
Mode: TypeAlias = Literal["enforce", "audit"]
"""An audited rule decides nothing: what it would have made of a decision is recorded beside it."""

EFFECTS: tuple[Effect, ...] = ("allow", "deny", "oblige")
MODES: tuple[Mode, ...] = ("enforce", "audit")

ANY = "*"
"""In a rule's lists of names: every one of them."""

DEFAULT_DENY = "default-deny"
"""The rule id of a decision that no rule made. No rule may carry it."""

UNBOUNDED = 2**63 - 1
"""What a condition sees as `request.max_tokens` when the request names no maximum."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the release says of the model that is asked for; empty for a route."""

    runtime: str = ""
    """"llama", "onnx", "lora" or "remote"."""
    provider: str = ""
    """Where it runs: "cpu", "cuda"; of a remote one the endpoint's kind."""
    remote: bool = False
    context_tokens: int = 0
    """0: not known."""


NO_FACTS = Facts()


@dataclass(frozen=True, slots=True)
class Request:
    """One question to the policy: who asks to do what with which model.

    Holds metadata only: no prompt, no input, no output.
    """

    subject: str
    """The caller's public id (an API key's id)."""
    roles: tuple[str, ...]
    action: str
    """One of `ACTIONS`."""
    model: str
    """What is asked for: a model or a route. Of a resource: the model that it is for."""
    resource: str = ""
    """Of an action in `RESOURCES`: the name of the tool, endpoint or secret."""
    data_class: str = ""
    """The caller's label of the data, e.g. "restricted"; "" when there is none."""
    max_tokens: int | None = None
    """Tokens of answer asked for; None: the request names no maximum."""
    stream: bool = False
    schema: bool = False
    """Whether the answer is to be JSON of a schema that the caller gave."""
    message_count: int = 0
    inputs: int = 0
    """Messages, texts, documents or tensors."""
    prompt_bytes: int = 0
    """Size of everything the caller sent to the model, in UTF-8 bytes."""
    tools: tuple[str, ...] = ()
    """Names of the functions that the caller offers to the model."""
    priority: str = "interactive"
    facts: Facts = NO_FACTS
    personal: tuple[str, ...] = ()
    """Kinds of personal data that the recognisers find in what was sent, sorted. Looked for only
    where a condition sees it (`CompiledPolicy.names`)."""
    injection: int = 0
    """How much of what was sent reads like an attempt to give the model other orders: 0..100.
    As `personal`."""
    workflow: str = ""
    """The caller's word for the workflow; "" when there is none."""
    run: str = ""
    """The caller's id of one run of it."""
    minute: int = 0
    hour: int = 0
    """0..23, UTC."""
    weekday: int = 0
    """0 Monday .. 6 Sunday, UTC."""
    day: int = 1
    month: int = 1
    year: int = 1970


@dataclass(frozen=True, slots=True)
class Obligations:
    """What must be done along with an allowed decision: names of signed documents, each once, in
    the order of the rules that oblige."""

    validators: tuple[str, ...] = ()
    redactions: tuple[str, ...] = ()
    approvals: tuple[str, ...] = ()
    retention: str = ""
    """Name of a class of the pack's Retention document; "": by the data's label. Of several, the
    one that keeps for the shortest time."""
    notices: tuple[str, ...] = ()
    """Texts for the caller to show, ASCII."""


NO_OBLIGATIONS = Obligations()


@dataclass(frozen=True, slots=True)
class Would:
    """What the decision would have been, had every audited rule been enforced."""

    allowed: bool
    rule: str
    matched: tuple[str, ...]
    """Ids of the audited rules that matched (or failed), in order of evaluation."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer. Denied unless a rule allowed and none denied."""

    allowed: bool
    rule: str
    """The id of the rule that decided; `DEFAULT_DENY` when none matched."""
    reason: str
    """For people and for the record; never holds a value of the request."""
    max_tokens: int | None
    """Most tokens of answer; None: the policy sets no limit. None when denied."""
    obligations: Obligations = NO_OBLIGATIONS
    matched: tuple[str, ...] = field(default=(), compare=False)
    """Ids of the enforced rules that matched (or failed), in order of evaluation: of a denial the
    one that denied."""
    would: Would | None = field(default=None, compare=False)
    """None: no audited rule matched."""
