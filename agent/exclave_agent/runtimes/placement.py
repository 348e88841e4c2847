"""From a release's models to the workers that serve them: who shares one, what it will take.

Parameters that are the agent's to read (prices, what to keep in memory, adapters' bases) stay
here; a worker gets the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Annotated, TypeVar

import msgspec

from exclave_agent.errors import ModelLoadFailed
from exclave_agent.ports import ModelSpec, Price
from exclave_agent.runtimes import frames
from exclave_agent.runtimes.memory import Need
from exclave_agent.runtimes.parameters import DEFAULT_CONTEXT, DEFAULT_PARALLEL

Parameters = Mapping[str, int | str | bool]

_LARGEST_PRICE = 10**15
"""Millionths of the unit per million tokens: nobody charges a billion."""
PROCESS = 128 << 20
"""A worker without a model: Python, the engine's libraries, buffers."""
_TOKEN_SHARE = 1 << 15
"""Of a model's file, what one token of context takes; as with models of the Llama family."""
_LEAST_TOKEN = 24 << 10


class PriceParameters(msgspec.Struct, forbid_unknown_fields=True):
    """What every model may carry: its tokens' price, decimal strings per million tokens."""

    price_currency: Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$")] | None = None
    """ISO 4217."""
    price_input: str | None = None
    price_output: str | None = None


class PlacementParameters(PriceParameters):
    """What the agent itself reads of a local model's parameters."""

    keep_warm: bool = False
    """Evict it only when evicting all others is not enough."""


class LoraParameters(PriceParameters, kw_only=True):
    """All parameters of an adapter."""

    base: Annotated[str, msgspec.Meta(min_length=1)]
    """The model of the same release that it adapts."""
    scale: str = "1"
    """How strongly, a decimal string."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter on a worker."""

    spec: ModelSpec
    scale: float


Key = tuple[str, str, tuple[tuple[str, int | str | bool], ...], tuple[tuple[str, float], ...]]
"""(runtime, digest, parameters, adapters' digests and scales): what makes two models one worker."""


@dataclass(frozen=True, slots=True)
class Served:
    """A name of the release, answered by a worker."""

    spec: ModelSpec
    price: Price | None
    adapter: str = ""
    """Digest of the adapter that answers; "": the model as it is."""
    base: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One worker that a release needs."""

    spec: ModelSpec
    parameters: Parameters
    """What the worker reads."""
    adapters: tuple[Adapter, ...]
    names: tuple[Served, ...]
    keep_warm: bool

    @property
    def key(self) -> Key:
        """See `Key`."""
        return (
            self.spec.runtime,
            self.spec.sha256,
            tuple(sorted(self.parameters.items())),
            tuple(sorted((one.spec.sha256, one.scale) for one in self.adapters)),
        )

    def load(self) -> frames.Load:
        """The frame that starts it."""
        return frames.Load(
            self.spec.runtime,
            str(self.spec.path.absolute()),
            dict(self.parameters),
            [
                frames.AdapterFrame(one.spec.sha256, str(one.spec.path.absolute()), one.scale)
                for one in self.adapters
            ],
        )

    @property
    def files_bytes(self) -> int:
        """Of the model and its adapters."""
        return _size(self.spec) + sum(_size(one.spec) for one in self.adapters)

    def least(self) -> Need:
        """What it takes in any case: while it works its weights are in memory."""
        return Need(PROCESS + self.files_bytes)

    def estimate(self, *, has_gpu: bool) -> Need:
        """What it will probably take, before anything has loaded it: the files, and the declared
        context. The first load says better."""
        files = self.files_bytes
        if self.spec.runtime != "llama":
            # Weights are copied and repacked, and a batch's tensors lie beside them.
            return Need(PROCESS + files * 3 // 2)
        tokens = _number(self.parameters, "n_ctx", DEFAULT_CONTEXT) * _number(
            self.parameters, "n_parallel", DEFAULT_PARALLEL
        )
        context = tokens * max(files // _TOKEN_SHARE, _LEAST_TOKEN)
        offloaded = has_gpu and self.parameters.get("n_gpu_layers", -1) != 0
        return Need(PROCESS + files + context, files + context if offloaded else 0)


def arrange(specs: Sequence[ModelSpec]) -> tuple[list[Wanted], list[ModelSpec]]:
    """The workers that a release needs, and its remote models.

    Raises: ModelLoadFailed naming the model and what is wrong with it.
    """
    seen: dict[str, ModelSpec] = {}
    for spec in specs:
        if spec.name in seen:
            raise ModelLoadFailed(f"model {spec.name}: named twice in one release")
        seen[spec.name] = spec
    attached: dict[str, list[tuple[Adapter, Served]]] = {}
    for spec in specs:
        if spec.runtime == "lora":
            base, adapter, served = _adapter(spec, seen)
            attached.setdefault(base, []).append((adapter, served))
    wanted = [
        _wanted(spec, attached.get(spec.name, []))
        for spec in specs
        if spec.runtime not in ("lora", "remote")
    ]
    return wanted, [spec for spec in specs if spec.runtime == "remote"]


def engine_parameters(parameters: Parameters) -> Parameters:
    """Those that the worker reads."""
    mine = PlacementParameters.__struct_fields__
    return {name: value for name, value in parameters.items() if name not in mine}


def _wanted(spec: ModelSpec, attached: Sequence[tuple[Adapter, Served]]) -> Wanted:
    mine = PlacementParameters.__struct_fields__
    ours = {name: value for name, value in spec.parameters.items() if name in mine}
    read = _read(spec, PlacementParameters, ours)
    scales: dict[str, float] = {}
    for adapter, _ in attached:
        if scales.setdefault(adapter.spec.sha256, adapter.scale) != adapter.scale:
            raise ModelLoadFailed(
                f"model {adapter.spec.name}: scale: the same adapter has another one already"
            )
    if len(scales) > frames.MAX_ADAPTERS:
        raise ModelLoadFailed(
            f"model {spec.name}: {len(scales)} adapters, more than {frames.MAX_ADAPTERS}"
        )
    unique = {adapter.spec.sha256: adapter for adapter, _ in attached}
    return Wanted(
        spec,
        engine_parameters(spec.parameters),
        tuple(unique.values()),
        (Served(spec, _price(spec, read)), *(served for _, served in attached)),
        read.keep_warm,
    )


def _adapter(spec: ModelSpec, seen: Mapping[str, ModelSpec]) -> tuple[str, Adapter, Served]:
    read = _read(spec, LoraParameters, spec.parameters)
    base = seen.get(read.base)
    if base is None or base.runtime != "llama":
        raise ModelLoadFailed(
            f"model {spec.name}: base: the release has no llama model named {read.base[:128]}"
        )
    scale = float(_decimal(spec, "scale", read.scale))
    if not -100 <= scale <= 100:
        raise ModelLoadFailed(f"model {spec.name}: scale: not from -100 to 100")
    return (
        read.base,
        Adapter(spec, scale),
        Served(spec, _price(spec, read), adapter=spec.sha256, base=read.base),
    )


_P = TypeVar("_P", bound=PriceParameters)


def _read(spec: ModelSpec, kind: type[_P], given: Parameters) -> _P:
    try:
        return msgspec.convert(dict(given), kind, strict=True)
    except msgspec.ValidationError as error:
        raise ModelLoadFailed(f"model {spec.name}: parameters: {str(error)[:300]}") from None


def _price(spec: ModelSpec, read: PriceParameters) -> Price | None:
    """Raises: ModelLoadFailed naming the parameter that is missing or no price."""
    given = {
        "price_currency": read.price_currency,
        "price_input": read.price_input,
        "price_output": read.price_output,
    }
    if not any(value is not None for value in given.values()):
        return None
    for name, value in given.items():
        if value is None:
            raise ModelLoadFailed(f"model {spec.name}: {name}: missing beside the others")
    assert read.price_currency is not None
    return Price(
        read.price_currency,
        _micro(spec, "price_input", read.price_input or ""),
        _micro(spec, "price_output", read.price_output or ""),
    )


def _micro(spec: ModelSpec, name: str, text: str) -> int:
    micro = _decimal(spec, name, text) * 1_000_000
    if micro != micro.to_integral_value() or not 0 <= micro <= _LARGEST_PRICE:
        raise ModelLoadFailed(
            f"model {spec.name}: {name}: not from 0 to {_LARGEST_PRICE // 1_000_000} with at most "
            "6 decimals"
        )
    return int(micro)


def _decimal(spec: ModelSpec, name: str, text: str) -> Decimal:
    try:
        value = Decimal(text) if len(text) <= 32 and text.strip() == text else Decimal("NaN")
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or "e" in text.lower() or "_" in text:
        raise ModelLoadFailed(f"model {spec.name}: {name}: not a decimal number, such as 0.15")
    return value


def _size(spec: ModelSpec) -> int:
    try:
        return spec.path.stat().st_size
    except OSError:
        # The load will say what is wrong with it.
        return 0


def _number(parameters: Parameters, name: str, default: int) -> int:
    value = parameters.get(name, 0)
    return value if isinstance(value, int) and value > 0 else default
