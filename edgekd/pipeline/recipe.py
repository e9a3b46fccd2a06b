"""A recipe: the YAML file in its parsed, resolved and frozen form."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError

from edgekd.core import plain_yaml
from edgekd.core.config import Config
from edgekd.core.errors import EdgekdError, RecipeError, UsageError
from edgekd.core.shipped import shipped_recipes
from edgekd.data.catalogue import SOURCES
from edgekd.data.source import Source
from edgekd.pipeline.document import Document, Path_, dotted, explain, read_document
from edgekd.pipeline.gate import GatePolicy
from edgekd.stages.catalogue import STAGES
from edgekd.stages.stage import Stage, StageConfig
from edgekd.targets.devices_file import DEVICES_FILE, read_targets, select_targets
from edgekd.targets.target import Target

KEYS = {
    "name": "name of the recipe; default: the file's name",
    "description": "one sentence for the report",
    "extends": "one other recipe whose keys stand where this one has none",
    "seed": "seed of every random stream; default 0",
    "trust_code": "allow networks given as file.py:function to run; default false",
    "data": "where images come from: `source:` and that source's keys",
    "teacher": "the trained network to learn from",
    "targets": "names of the places to measure on, from edgekd-devices.yaml; default [local]",
    "measure": "how thoroughly the final session measures",
    "gate": "the limits that the final artifact is judged by",
    "steps": "what to do, in order: a list of one-key maps `stage: {keys}`",
}
_STEP_NAME = re.compile(r"[a-z][a-z0-9_-]{0,40}")


class MeasureConfig(Config):
    """The `measure:` section."""

    protocol: Literal["smoke", "rapid", "quick", "normal", "mlperf"] = Field(
        "quick", description="duration and number of timed runs of the final session"
    )


@dataclass(frozen=True)
class StepSpec:
    """One step as the recipe has it: its stage and its validated configuration."""

    name: str
    stage: str
    config: StageConfig
    path: str
    """Where it stands in the recipe, for messages: `steps[2].distill`."""


@dataclass(frozen=True)
class Recipe:
    """A whole recipe with every name resolved."""

    name: str
    description: str
    seed: int
    trust_code: bool
    source_name: str
    source: Source
    targets: Sequence[Target]
    measure: MeasureConfig
    gate: GatePolicy
    steps: Sequence[StepSpec]
    file: Path
    resolved: Mapping[str, Any]
    """The recipe as plain data with every default written out."""

    def locked(self) -> str:
        """The resolved recipe as YAML."""
        return yaml.safe_dump(dict(self.resolved), sort_keys=False, allow_unicode=True)


def find_recipe(name: str) -> Path:
    """A recipe's file from a path or the name of a shipped one; raises `UsageError` with the choices."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.exists():
        if path.is_file():
            return path
        raise UsageError("no such recipe file", where=name, choices=shipped_recipes())
    recipes = shipped_recipes()
    if name not in recipes:
        raise UsageError(f"`{name}` is neither a file nor a shipped recipe", choices=recipes)
    return recipes[name]


def load_recipe(name: str, *, overrides: Sequence[str] = ()) -> Recipe:
    """Read, extend, override (`distill.epochs=3`) and validate. Raises `RecipeError` with all problems."""
    document = _extended(read_document(find_recipe(name)))
    for text in overrides:
        override(document.data, text)
    return _Reader(document).recipe()


def _extended(document: Document) -> Document:
    base_name = document.data.pop("extends", None)
    if base_name is None:
        return document
    beside = document.file.parent / str(base_name)
    base = read_document(beside if beside.is_file() else find_recipe(str(base_name)))
    if "extends" in base.data:
        raise RecipeError(
            [f"{base.file} itself extends another recipe; only one level is allowed"],
            where=str(document.file),
        )
    merged = {**base.data, **document.data}
    merged.setdefault("name", document.file.stem)
    return Document({**merged}, {**base._lines, **document._lines}, document.file)


def override(data: dict[str, Any], text: str) -> None:
    """Apply `path.to.key=value`; the first part is a recipe key or the name of a step."""
    path, equals, value_text = text.partition("=")
    parts = path.strip().split(".")
    if not equals or not all(parts):
        raise UsageError(f"`--set {text}` is not of the form key.path=value", fix="--set distill.epochs=3")
    try:
        _, value = plain_yaml.parse(value_text)
    except ValueError as error:
        raise UsageError(f"`--set {text}`: the value is not valid YAML") from error
    node = _override_root(data, parts[0])
    if len(parts) == 1:
        if parts[0] not in KEYS:
            raise UsageError(f"`--set {text}`: name a key of the step as well")
        data[parts[0]] = value
        return
    for part in parts[1:-1]:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise UsageError(f"`--set {text}`: `{part}` is not a mapping")
    node[parts[-1]] = value


def _override_root(data: dict[str, Any], name: str) -> dict[str, Any]:
    steps = data.get("steps")
    if isinstance(steps, list):  # `- export` is short for `- export: {}`
        steps = data["steps"] = [{step: {}} if isinstance(step, str) else step for step in steps]
    for step in steps if isinstance(steps, list) else []:
        if isinstance(step, dict) and len(step) == 1:
            ((stage, config),) = step.items()
            named = config.get("name", stage) if isinstance(config, dict) else stage
            if named == name:
                step[stage] = dict(config) if isinstance(config, dict) else {}
                return step[stage]  # type: ignore[no-any-return]
    if name not in KEYS:
        names = [next(iter(s)) for s in steps or [] if isinstance(s, dict) and s]
        raise UsageError(f"`{name}` is neither a step nor a key of the recipe", choices=[*names, *KEYS])
    root = data.get(name)
    data[name] = dict(root) if isinstance(root, dict) else {}
    return data[name]  # type: ignore[no-any-return]


class _Reader:
    """Turns a document into a recipe, collecting every problem before raising."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.data = document.data
        self.problems: list[str] = []

    def recipe(self) -> Recipe:
        self._unknown_keys()
        seed = self._value("seed", int, 0)
        trust_code = self._value("trust_code", bool, False)
        name = self._value("name", str, self.document.file.stem)
        if not _STEP_NAME.fullmatch(name):
            self._problem(("name",), f"`{name}` must be lower-case letters, digits, - and _")
        source_name, source = self._source()
        targets = self._targets()
        measure = self._section("measure", MeasureConfig)
        gate = self._section("gate", GatePolicy)
        steps = self._steps()
        if self.problems or source is None or measure is None or gate is None:
            raise RecipeError(self.problems, where=str(self.document.file))
        return Recipe(
            name=name,
            description=self._value("description", str, ""),
            seed=seed,
            trust_code=trust_code,
            source_name=source_name,
            source=source,
            targets=targets,
            measure=measure,
            gate=gate,
            steps=steps,
            file=self.document.file,
            resolved=_resolved(name, seed, trust_code, source_name, source, targets, measure, gate, steps),
        )

    def _problem(self, path: Path_, text: str) -> None:
        self.problems.append(f"{self.document.where(path)}: {text}")

    def _unknown_keys(self) -> None:
        for key in self.data:
            if key not in KEYS:
                error = {"type": "extra_forbidden", "loc": (key,)}
                self._problem((str(key),), explain(error, list(KEYS)))

    def _value(self, key: str, kind: type[Any], default: Any) -> Any:
        value = self.data.get(key, default)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self._problem((key,), f"must be {_KIND_WORDS[kind]} (got {value!r})")
            return default
        return value

    def _validated(self, config: type[BaseModel], raw: Any, path: Path_) -> Any:
        if raw is None:
            raw = {}
        if not isinstance(raw, dict):
            self._problem(path, f"must be a mapping of keys (got {raw!r})")
            return None
        try:
            return config.model_validate(raw)
        except ValidationError as error:
            for item in error.errors(include_url=False):
                loc = tuple(p for p in item["loc"] if not isinstance(p, str) or _is_key(p, item))
                legal = _legal_keys(config, loc[:-1])
                self._problem((*path, *loc), explain(item, legal))
        except EdgekdError as error:
            self._problem(path, str(error))
        return None

    def _section(self, key: str, config: type[BaseModel]) -> Any:
        return self._validated(config, self.data.get(key), (key,))

    def _source(self) -> tuple[str, Source | None]:
        raw = self.data.get("data", {"source": "digits"})
        if not isinstance(raw, dict) or "source" not in raw:
            self._problem(("data",), f"needs `source:`; choices: {', '.join(SOURCES.names())}")
            return "", None
        name = str(raw["source"])
        try:
            config = SOURCES.load(name)
        except UsageError as error:
            self._problem(("data", "source"), str(error))
            return name, None
        rest = {key: value for key, value in raw.items() if key != "source"}
        return name, self._validated(config, rest, ("data",))

    def _targets(self) -> list[Target]:
        names = self.data.get("targets", ["local"])
        if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
            self._problem(("targets",), f"must be a list of names (got {names!r})")
            return []
        if len(set(names)) != len(names):
            self._problem(("targets",), "a target stands twice")
        try:
            return select_targets(names, read_targets(Path(DEVICES_FILE)))
        except UsageError as error:
            self._problem(("targets",), str(error))
            return []

    def _steps(self) -> list[StepSpec]:
        raw = self.data.get("steps")
        if not isinstance(raw, list) or not raw:
            self._problem(("steps",), f"must be a list of steps; stages: {', '.join(STAGES.names())}")
            return []
        steps = [step for index, item in enumerate(raw) if (step := self._step(index, item))]
        seen: set[str] = set()
        for step in steps:
            if step.name in seen:
                self._problem(
                    ("steps",),
                    f"two steps are called `{step.name}`; give one of them `name:`",
                )
            seen.add(step.name)
        return steps

    def _step(self, index: int, item: Any) -> StepSpec | None:
        path: Path_ = ("steps", index)
        if isinstance(item, str):
            item = {item: None}
        if not isinstance(item, dict) or len(item) != 1:
            self._problem(path, f"must be one stage with its keys, as `- distill: {{...}}` (got {item!r})")
            return None
        ((stage_name, raw),) = item.items()
        try:
            stage: Stage = STAGES.load(str(stage_name))
        except UsageError as error:
            self._problem((*path, str(stage_name)), str(error))
            return None
        if stage_name == "teacher" and isinstance(self.data.get("teacher"), dict):
            raw = {**self.data["teacher"], **(raw or {})} if isinstance(raw, dict | None) else raw
        config = self._validated(stage.config, raw, (*path, str(stage_name)))
        if config is None:
            return None
        name = config.name or str(stage_name)
        if not _STEP_NAME.fullmatch(name):
            self._problem((*path, str(stage_name), "name"), f"`{name}` is not a legal step name")
        return StepSpec(name, str(stage_name), config, dotted((*path, str(stage_name))))


_KIND_WORDS = {int: "a whole number", bool: "true or false", str: "text"}


def _is_key(part: str, error: Any) -> bool:
    """Whether a part of pydantic's location is a key of the file (unions add type names)."""
    return part.replace("_", "").replace("-", "").isalnum() or part == error["loc"][-1]


def _legal_keys(config: type[BaseModel], loc: Iterable[str | int]) -> list[str]:
    model: Any = config
    for part in loc:
        field = model.model_fields.get(part) if isinstance(part, str) else None
        inner = _inner_model(field.annotation) if field is not None else None
        if inner is None:
            break
        model = inner
    return list(model.model_fields)


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _inner_model(argument)
        if found is not None:
            return found
    return None


def _resolved(
    name: str,
    seed: int,
    trust_code: bool,
    source_name: str,
    source: Source,
    targets: Sequence[Target],
    measure: MeasureConfig,
    gate: GatePolicy,
    steps: Sequence[StepSpec],
) -> dict[str, Any]:
    return {
        "name": name,
        "seed": seed,
        "trust_code": trust_code,
        "data": {"source": source_name, **source.model_dump(mode="json")},
        "targets": [target.name for target in targets],
        "measure": measure.model_dump(mode="json"),
        "gate": gate.model_dump(mode="json", exclude_none=True),
        "steps": [{s.stage: {"name": s.name, **_without_name(s.config)}} for s in steps],
    }


def _without_name(config: StageConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude={"name"}, exclude_none=True)
