"""The JSON Schema of recipes, made from the models of everything that is registered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from edgekd.core.registry import Registry
from edgekd.data.catalogue import SOURCES
from edgekd.pipeline.gate import GatePolicy
from edgekd.pipeline.recipe import KEYS, MeasureConfig
from edgekd.stages.catalogue import STAGES

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REFERENCE = "#/$defs/{model}"
_TEACHER = "teacher"

Schema = dict[str, Any]


def recipe_schema() -> Schema:
    """JSON Schema (draft 2020-12) of a recipe: what an editor needs to complete and check one.

    Names that depend on the place (targets, files, parameters of methods) are checked by
    `edgekd validate` alone. Needs no torch.
    """
    sources: dict[str, type[BaseModel]] = {e.name: SOURCES.load(e.name) for e in SOURCES}
    stages: dict[str, type[BaseModel]] = {e.name: STAGES.load(e.name).config for e in STAGES}
    models: list[type[BaseModel]] = [*sources.values(), *stages.values(), GatePolicy, MeasureConfig]
    found, definitions = _definitions(models)
    summaries = _summaries(SOURCES)
    data = {name: _source(name, definitions.pop(found[m]), summaries) for name, m in sources.items()}
    steps = {name: _pointer(found[model]) for name, model in stages.items()}
    properties = _properties(data, steps, _pointer(found[GatePolicy]), _pointer(found[MeasureConfig]))
    return {
        "$schema": DIALECT,
        "title": "edgekd recipe",
        "description": "From a trained network to an edge device; the keys of one recipe.",
        "type": "object",
        "additionalProperties": False,
        "anyOf": [{"required": ["steps"]}, {"required": ["extends"]}],
        "properties": {key: {**properties[key], "description": KEYS[key]} for key in KEYS},
        "$defs": definitions,
    }


def _definitions(models: list[type[BaseModel]]) -> tuple[dict[type[BaseModel], str], dict[str, Schema]]:
    """The name of each model's definition, and all definitions, described by their first paragraph."""
    references, shared = models_json_schema([(m, "validation") for m in models], ref_template=_REFERENCE)
    names = {m: str(references[(m, "validation")]["$ref"]).rpartition("/")[2] for m in models}
    definitions: dict[str, Schema] = shared["$defs"]
    for definition in definitions.values():
        if "description" in definition:
            definition["description"] = definition["description"].partition("\n\n")[0]
    return names, definitions


def _properties(
    data: Mapping[str, Schema], steps: Mapping[str, Schema], gate: Schema, measure: Schema
) -> dict[str, Schema]:
    text = {"type": "string"}
    return {
        "name": {**text, "pattern": "^[a-z][a-z0-9_-]{0,40}$"},
        "description": text,
        "extends": text,
        "seed": {"type": "integer", "default": 0},
        "trust_code": {"type": "boolean", "default": False},
        "data": {"type": "object", "required": ["source"], "oneOf": list(data.values())},
        "teacher": steps[_TEACHER],
        "targets": {"type": "array", "items": text, "minItems": 1, "uniqueItems": True, "default": ["local"]},
        "measure": measure,
        "gate": gate,
        "steps": {"type": "array", "minItems": 1, "items": {"anyOf": _steps(steps)}},
    }


def _source(name: str, model: Schema, summaries: Mapping[str, str]) -> Schema:
    """The keys under `data:` for one source, `source` itself among them."""
    source = {"const": name, "description": summaries[name]}
    return {
        **model,
        "title": name,
        "properties": {"source": source, **model.get("properties", {})},
        "required": ["source", *model.get("required", [])],
    }


def _steps(stages: Mapping[str, Schema]) -> list[Schema]:
    """A step is a stage's bare name, or a map from that one name to its keys."""
    summaries = _summaries(STAGES)
    named: list[Schema] = [{"type": "string", "enum": list(stages)}]
    for name, keys in stages.items():
        named.append(
            {
                "type": "object",
                "title": name,
                "description": summaries[name],
                "properties": {name: {"anyOf": [keys, {"type": "null"}]}},
                "required": [name],
                "additionalProperties": False,
            }
        )
    return named


def _summaries(registry: Registry[Any]) -> dict[str, str]:
    return {entry.name: entry.summary for entry in registry}


def _pointer(name: str) -> Schema:
    return {"$ref": _REFERENCE.format(model=name)}
