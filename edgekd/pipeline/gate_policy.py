"""The recipe's `gate:` section: bounds with units, and the limits they stand for on each target.

    gate:
      accuracy: 95 %                              # short for {min: 95 %}
      accuracy_drop: {max: 1.0pt, against: teacher}
      latency_p90: {pi5: 30ms, local: 5ms}        # short for {max: {pi5: 30ms, local: 5ms}}
      speedup: {min: 2x, against: teacher}
      size: 12MB

A quantity may have several bounds (a list). Fractions are kept in [0, 1]; `1pt` (percentage point) and `1 %`
of a drop both mean 0.01 of all images, never one percent of the other model's accuracy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from edgekd.core.config import Config
from edgekd.core.errors import UsageError, close_names
from edgekd.core.measurement import Quantity
from edgekd.core.verdict import ANY_TARGET, Limit

Against = Literal["teacher", "student", "release", "reference"]
"""`reference` is the other model of an audit."""
Amount = str | dict[str, str]
"""An amount with its unit, or one per target."""

_AMOUNT = re.compile(r"([+-]?)\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-zµμ%]*)")


@dataclass(frozen=True)
class Unit:
    """The legal units of one kind of amount, each as a factor to what measurements use."""

    name: str
    factors: Mapping[str, str]
    example: str
    low: float
    high: float
    bare: bool = False
    """Whether a number without a unit is unambiguous (an accuracy of 0.95)."""

    def parse(self, raw: object) -> float:
        """The amount in the measurement's unit; raises `ValueError` with the legal forms."""
        if isinstance(raw, bool) or not isinstance(raw, int | float | str):
            raise ValueError(f"{raw!r} is not {self.name}; write for example `{self.example}`")
        match = _AMOUNT.fullmatch(str(raw).strip())
        if match is None:
            raise ValueError(f"`{raw}` is not {self.name}; write for example `{self.example}`")
        sign, digits, unit = match.groups()
        value = float(Decimal(sign + digits) * Decimal(self._factor(raw, unit)))
        if not self.low <= value <= self.high:
            raise ValueError(f"`{raw}` is out of range for {self.name}")
        return value

    def _factor(self, raw: object, unit: str) -> str:
        if unit in self.factors:
            return self.factors[unit]
        if not unit and self.bare:
            return "1"
        units = ", ".join(self.factors)
        if not unit:
            raise ValueError(f"`{raw}` has no unit; units: {units}; write for example `{self.example}`")
        raise ValueError(
            f"`{raw}` has the unit `{unit}`, which is not one of {units}; write for example `{self.example}`"
        )


_PERCENT = {"%": "0.01", "pt": "0.01"}
_TINY, _HUGE = 1e-12, 1e18
SHARE = Unit("a share of the images", _PERCENT, "95 %", 0.0, 1.0, bare=True)
RATE = Unit("a rate of the images", _PERCENT, "1 %", 0.0, 1.0)
DROP = Unit("a difference in accuracy", _PERCENT, "1.0pt", -1.0, 1.0)
TIME = Unit("a time", {"us": "0.001", "µs": "0.001", "ms": "1", "s": "1000"}, "30ms", _TINY, _HUGE)
ENERGY = Unit("an energy", {"uJ": "0.001", "mJ": "1", "J": "1000"}, "5mJ", _TINY, _HUGE)
RATIO = Unit("a ratio", {"x": "1"}, "2x", _TINY, _HUGE)
AGE = Unit("a time span", {"s": "1", "min": "60", "h": "3600", "d": "86400"}, "30d", 0.0, _HUGE)
SIZE = Unit(
    "a size",
    {
        "B": "1",
        "KB": "1000",
        "MB": "1000000",
        "GB": "1000000000",
        "KiB": "1024",
        "MiB": "1048576",
        "GiB": "1073741824",
    },
    "12MB",
    _TINY,
    _HUGE,
)


@dataclass(frozen=True)
class Rule:
    """What a key of the gate bounds, on which side, in which unit, and whether it compares two subjects."""

    quantity: Quantity
    side: Literal["min", "max"]
    unit: Unit
    paired: bool = False
    per_target: bool = True


RULES: dict[str, Rule] = {
    "accuracy": Rule("accuracy", "min", SHARE),
    "accuracy_drop": Rule("accuracy_drop", "max", DROP, paired=True),
    "macro_recall": Rule("macro_recall", "min", SHARE),
    "worst_class": Rule("worst_class_recall", "min", SHARE),
    "new_errors": Rule("new_errors", "max", RATE, paired=True),
    "host_agreement": Rule("host_agreement", "min", SHARE),
    "latency_p50": Rule("latency_p50_ms", "max", TIME),
    "latency_p90": Rule("latency_p90_ms", "max", TIME),
    "speedup": Rule("speedup", "min", RATIO, paired=True),
    "cold_start": Rule("cold_start_ms", "max", TIME),
    "size": Rule("size_bytes", "max", SIZE, per_target=False),
    "memory": Rule("memory_bytes", "max", SIZE),
    "energy": Rule("energy_mj", "max", ENERGY),
}


class Floor(Config):
    """At least `min`."""

    min: Amount
    against: None = None


class Ceiling(Config):
    """At most `max`."""

    max: Amount
    against: None = None


class PairedFloor(Config):
    """At least `min`, compared with another subject on the same images or in the same session."""

    min: Amount
    against: Against = "teacher"


class PairedCeiling(Config):
    """At most `max`, compared with another subject on the same images or in the same session."""

    max: Amount
    against: Against = "teacher"


def _written(raw: object, rule: Rule) -> Any:
    """The long form of one or several bounds, its amounts checked; raises `ValueError`."""
    if isinstance(raw, list | tuple):
        return [_written_one(one, rule) for one in raw]
    return [_written_one(raw, rule)]


def _written_one(raw: object, rule: Rule) -> Any:
    if isinstance(raw, Config):
        return raw
    if not isinstance(raw, dict):
        return {rule.side: _amount(raw, rule.unit)}
    other = "max" if rule.side == "min" else "min"
    if other in raw:
        raise ValueError(f"takes `{rule.side}`, not `{other}`")
    if raw.get("against") is not None and not rule.paired:
        raise ValueError("compares with no other subject; leave out `against`")
    if rule.side not in raw and ("against" in raw or not raw):
        raise ValueError(f"needs `{rule.side}`, for example `{rule.side}: {rule.unit.example}`")
    if rule.side not in raw:
        return {rule.side: _amount(raw, rule.unit)}
    return {**raw, rule.side: _amount(raw[rule.side], rule.unit)}


def _amount(raw: object, unit: Unit) -> Any:
    if isinstance(raw, dict):
        if not raw:
            raise ValueError(f"names no target; write for example `{unit.example}`")
        return {str(target): _amount_one(one, unit) for target, one in raw.items()}
    return _amount_one(raw, unit)


def _amount_one(raw: object, unit: Unit) -> str:
    unit.parse(raw)
    return str(raw)


def _long(name: str) -> BeforeValidator:
    return BeforeValidator(lambda raw: _written(raw, RULES[name]))


def _schema(name: str) -> WithJsonSchema:
    rule = RULES[name]
    amount: dict[str, Any] = {"type": ["string", "number"], "examples": [rule.unit.example]}
    forms = {"anyOf": [amount, {"type": "object", "additionalProperties": True}]}
    text = f"{rule.side} {rule.unit.name}, as `{rule.unit.example}`, one per target, or {{{rule.side}: ...}}"
    return WithJsonSchema(
        {"anyOf": [*forms["anyOf"], {"type": "array", "items": forms}], "description": text}
    )


def _check_age(raw: object) -> str:
    AGE.parse(raw)
    return str(raw)


class GatePolicy(Config):
    """Limits on the artifact that ships, and what a measurement must be to count.

    Raises pydantic's `ValidationError` for an unknown key, a missing unit or an amount out of range.
    """

    accuracy: Annotated[tuple[Floor, ...], _long("accuracy"), _schema("accuracy")] = ()
    accuracy_drop: Annotated[tuple[PairedCeiling, ...], _long("accuracy_drop"), _schema("accuracy_drop")] = ()
    macro_recall: Annotated[tuple[Floor, ...], _long("macro_recall"), _schema("macro_recall")] = ()
    worst_class: Annotated[tuple[Floor, ...], _long("worst_class"), _schema("worst_class")] = ()
    new_errors: Annotated[tuple[PairedCeiling, ...], _long("new_errors"), _schema("new_errors")] = ()
    host_agreement: Annotated[tuple[Floor, ...], _long("host_agreement"), _schema("host_agreement")] = ()
    latency_p50: Annotated[tuple[Ceiling, ...], _long("latency_p50"), _schema("latency_p50")] = ()
    latency_p90: Annotated[tuple[Ceiling, ...], _long("latency_p90"), _schema("latency_p90")] = ()
    speedup: Annotated[tuple[PairedFloor, ...], _long("speedup"), _schema("speedup")] = ()
    cold_start: Annotated[tuple[Ceiling, ...], _long("cold_start"), _schema("cold_start")] = ()
    size: Annotated[tuple[Ceiling, ...], _long("size"), _schema("size")] = ()
    memory: Annotated[tuple[Ceiling, ...], _long("memory"), _schema("memory")] = ()
    energy: Annotated[tuple[Ceiling, ...], _long("energy"), _schema("energy")] = ()
    release: str | None = None
    """Folder of the bundle that `against: release` compares with."""
    max_age: Annotated[str, BeforeValidator(_check_age)] = "30d"
    """A measurement older than this is not judged."""
    required: dict[str, Any] = Field(default={})
    """Facts the device must have: `{governor: performance}`; by target: `{pi5: {governor: performance}}`."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    """Lowest level of the intervals that are judged."""

    @model_validator(mode="after")
    def _release_is_given(self) -> GatePolicy:
        if self.release is None and any(bound.against == "release" for _, bound in _bounds(self)):
            raise ValueError("`against: release` needs `release: FOLDER`, the bundle to compare with")
        return self

    @property
    def oldest(self) -> timedelta:
        """`max_age` as a time span."""
        return timedelta(seconds=AGE.parse(self.max_age))


Bound = Floor | Ceiling | PairedFloor | PairedCeiling


def _bounds(policy: GatePolicy) -> Iterator[tuple[str, Bound]]:
    for name in RULES:
        for bound in getattr(policy, name):
            yield name, bound


def limits(policy: GatePolicy, targets: Sequence[str]) -> list[Limit]:
    """Every limit of the policy on every target it concerns, in the order of `RULES`.

    An amount without a target holds on each of them; a size holds once, for the file.
    Raises `UsageError` for a target that the recipe does not have.
    """
    return [limit for name, bound in _bounds(policy) for limit in _limits_of(name, bound, targets)]


def _limits_of(name: str, bound: Bound, targets: Sequence[str]) -> Iterator[Limit]:
    rule = RULES[name]
    amount: Amount = getattr(bound, rule.side)
    for target, text in _by_target(amount, targets, rule, name).items():
        yield Limit(
            quantity=rule.quantity,
            target=target,
            against=bound.against,
            source=f"gate.{name}.{rule.side} = {text}",
            **{rule.side: rule.unit.parse(text)},
        )


def _by_target(amount: Amount, targets: Sequence[str], rule: Rule, name: str) -> dict[str, str]:
    if isinstance(amount, str):
        return dict.fromkeys(targets if rule.per_target else [ANY_TARGET], amount)
    for target in amount:
        if target not in targets:
            raise UsageError(
                f"`{target}` is neither a target of this recipe nor the key `{rule.side}`"
                f"{close_names(target, [*targets, rule.side])}",
                where=f"gate.{name}",
                choices=targets,
            )
    return dict(amount)
