"""Methods in words: which family one belongs to, and its parameters. Needs no torch."""

from __future__ import annotations

import json
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from edgekd.core.config import Config

_USUAL = {
    "weight": "of the method's term; replaces the paper's",
    "temperature": "T, which softens the logits of both sides",
}
"""What these two mean where a docstring does not say otherwise."""
_WORDS = {
    "float": "number",
    "int": "whole number",
    "bool": "true or false",
    "str": "text",
    "NoneType": "none",
}
_BOUNDS = {"gt": "> {}", "ge": ">= {}", "lt": "< {}", "le": "<= {}", "min_length": "{} or more entries"}


FAMILIES = {
    "response": "logits and probabilities",
    "feature": "feature maps and embeddings",
    "relation": "how samples, positions or layers relate to one another",
    "peers": "networks that learn together",
    "branched": "one network with several heads",
    "chain": "one training after another",
    "adversarial": "against a discriminator",
    "synthetic": "on images that are made, not given",
}
"""Folder of `edgekd/distill/methods/` -> what its methods compare or how they train."""

PLUGINS = "plug-ins"


def family_of(target: str) -> str:
    """The folder that a registered method lies in; `plug-ins` for other packages."""
    prefix = "edgekd.distill.methods."
    return target.removeprefix(prefix).partition(".")[0] if target.startswith(prefix) else PLUGINS


@dataclass(frozen=True)
class Parameter:
    """One key that a recipe may write beside the method's name. `default` is as YAML writes it."""

    name: str
    kind: str
    default: str
    meaning: str


def parameters_of(settings: type[Config]) -> tuple[Parameter, ...]:
    """The parameters in the order of the class; meanings are the field's own or those of the docstring."""
    told = _USUAL | _meanings(settings.__doc__ or "", settings.model_fields)
    return tuple(
        Parameter(name, _kind(field), _default(field), field.description or told.get(name, ""))
        for name, field in settings.model_fields.items()
    )


def _meanings(docstring: str, fields: Mapping[str, FieldInfo]) -> dict[str, str]:
    """`a: what a is. b, c: what b and c are.` -> a, b and c with what follows their colon."""
    text = " ".join(docstring.split())
    name = f"(?:{'|'.join(map(re.escape, fields))})"
    heads = list(re.finditer(rf"(?:^|(?<=[.;:] ))({name}(?:(?:, | and ){name})*): ", text))
    ends = [*(head.start() for head in heads[1:]), len(text)]
    told: dict[str, str] = {}
    for head, end in zip(heads, ends, strict=False):
        meaning = text[head.end() : end].strip().rstrip(".;")
        told |= dict.fromkeys(re.split(", | and ", head[1]), meaning)
    return told


def _kind(field: FieldInfo) -> str:
    bounds = [
        words.format(getattr(rule, key))
        for rule in field.metadata
        for key, words in _BOUNDS.items()
        if getattr(rule, key, None) is not None
    ]
    return ", ".join([_spelled(field.annotation), *bounds])


def _spelled(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _spelled(arguments[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_spelled(argument) for argument in arguments)
    if origin is dict:
        return f"mapping of {_spelled(arguments[0])} to {_spelled(arguments[1])}"
    if origin in (tuple, list):
        return f"list of {_spelled(arguments[0])}"
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return f"{{{', '.join(annotation.model_fields)}}}"
    name = getattr(annotation, "__name__", str(annotation))
    return _WORDS.get(name, name)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Config):
        value = value.model_dump()
    return "none" if value is None else _short(value)


def _short(value: Any) -> str:
    """Six digits of a number are enough to read."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return json.dumps(value, default=str)
