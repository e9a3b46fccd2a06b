"""What a recipe says about distillation: the methods, their parameters, the weight of the task."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from edgekd.core.config import Config
from edgekd.core.errors import UsageError
from edgekd.distill.catalogue import METHODS


class MethodUse(Config):
    """One method of a recipe: its name; every further key is a parameter of that method."""

    model_config = ConfigDict(extra="allow")

    name: str

    @property
    def parameters(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

    @model_validator(mode="after")
    def _known(self) -> MethodUse:
        try:
            METHODS.entry(self.name)
        except UsageError as error:
            raise ValueError(str(error)) from None
        if self.parameters:
            _check_parameters(self)
        return self


def _check_parameters(use: MethodUse) -> None:
    """Parameters are checked by the method's own settings, which needs torch; without any it is skipped."""
    settings = METHODS.load(use.name).settings
    try:
        settings.model_validate(use.parameters)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        legal = ", ".join(settings.model_fields) or "(none)"
        raise ValueError(f"method `{use.name}`: {'; '.join(problems)} (parameters: {legal})") from None


def _as_uses(value: Any) -> Any:
    """`kd`, `{name: kd, ...}` and lists of either, as a list of mappings."""
    values = value if isinstance(value, list | tuple) else [value]
    return [{"name": item} if isinstance(item, str) else item for item in values]


MethodUses = Annotated[
    tuple[MethodUse, ...],
    BeforeValidator(_as_uses, json_schema_input_type=str | MethodUse | list[str | MethodUse]),
    Field(min_length=1),
]


class DistillSettings(Config):
    """`method` is a name, a mapping with its parameters, or a list of composable methods.

    task_weight: weight of the cross-entropy with the labels; None takes the method's own (the smallest one
    of several methods). A method's `weight` parameter replaces the paper's. leave_out: names of terms of the
    student's loss that are dropped, everything else as it was.
    """

    method: MethodUses = (MethodUse(name="kd"),)
    task_weight: float | None = Field(None, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    leave_out: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _unique(self) -> DistillSettings:
        names = [use.name for use in self.method]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"method `{twice[0]}` is named twice")
        return self
