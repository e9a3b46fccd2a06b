from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from edgekd.core.shipped import shipped_recipes
from edgekd.data.catalogue import SOURCES
from edgekd.pipeline.gate import GatePolicy
from edgekd.pipeline.recipe import KEYS
from edgekd.pipeline.recipe_schema import DIALECT, recipe_schema
from edgekd.stages.catalogue import STAGES


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return recipe_schema()


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from _nodes(item)
    elif isinstance(value, list):
        for item in value:
            yield from _nodes(item)


def _definition(schema: dict[str, Any], pointer: dict[str, Any]) -> dict[str, Any]:
    name = pointer["$ref"].removeprefix("#/$defs/")
    found: dict[str, Any] = schema["$defs"][name]
    return found


def _step(schema: dict[str, Any], stage: str) -> dict[str, Any]:
    for form in schema["properties"]["steps"]["items"]["anyOf"]:
        if stage in form.get("properties", {}):
            return _definition(schema, form["properties"][stage]["anyOf"][0])
    raise AssertionError(f"the schema has no step `{stage}`")


def test_it_is_plain_json_of_its_dialect(schema: dict[str, Any]) -> None:
    assert json.loads(json.dumps(schema)) == schema
    assert schema["$schema"] == DIALECT


def test_it_has_every_key_of_a_recipe_with_its_description(schema: dict[str, Any]) -> None:
    assert {name: key["description"] for name, key in schema["properties"].items()} == KEYS


def test_every_reference_leads_to_a_definition(schema: dict[str, Any]) -> None:
    references = {node["$ref"] for node in _nodes(schema) if isinstance(node.get("$ref"), str)}
    assert references
    assert {ref.removeprefix("#/$defs/") for ref in references} <= set(schema["$defs"])


def test_every_data_source_is_one_choice_with_its_own_keys(schema: dict[str, Any]) -> None:
    choices = {one["properties"]["source"]["const"]: one for one in schema["properties"]["data"]["oneOf"]}
    assert set(choices) == set(SOURCES.names())
    for name, choice in choices.items():
        assert set(choice["properties"]) == {"source", *SOURCES.load(name).model_fields}
        assert "source" in choice["required"]
        assert choice["additionalProperties"] is False


@pytest.mark.parametrize("stage", STAGES.names())
def test_every_stage_has_exactly_its_keys(schema: dict[str, Any], stage: str) -> None:
    keys = _step(schema, stage)
    assert set(keys["properties"]) == set(STAGES.load(stage).config.model_fields)
    assert keys["additionalProperties"] is False


@pytest.mark.parametrize("stage", STAGES.names())
def test_a_step_may_be_a_bare_name(schema: dict[str, Any], stage: str) -> None:
    assert stage in schema["properties"]["steps"]["items"]["anyOf"][0]["enum"]


def test_the_gate_has_every_limit(schema: dict[str, Any]) -> None:
    gate = _definition(schema, schema["properties"]["gate"])
    assert set(gate["properties"]) == set(GatePolicy.model_fields)


@pytest.mark.parametrize("stage", STAGES.names())
def test_every_key_of_a_stage_is_described(schema: dict[str, Any], stage: str) -> None:
    bare = [name for name, key in _step(schema, stage)["properties"].items() if "description" not in key]
    assert bare == [], f"{stage}: describe {bare} with Field(description=...)"


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_use_only_keys_that_the_schema_has(schema: dict[str, Any], name: str) -> None:
    recipe = yaml.safe_load(shipped_recipes()[name].read_text())
    assert set(recipe) <= set(schema["properties"])
    for step in recipe.get("steps", ()):
        ((stage, keys),) = step.items() if isinstance(step, dict) else ((step, None),)
        assert set(keys or {}) <= set(_step(schema, stage)["properties"])


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_are_valid_by_the_schema(schema: dict[str, Any], name: str) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load(shipped_recipes()[name].read_text()), schema)
