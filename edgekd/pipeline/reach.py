"""What a run knows of its targets, and what it can do without those that are measured on elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgekd.backends.catalogue import BACKENDS
from edgekd.core.errors import TargetError, UsageError
from edgekd.measure.probes import device_facts
from edgekd.pipeline.plan import Plan
from edgekd.stages.catalogue import STAGES
from edgekd.stages.stage import Stage
from edgekd.targets.target import Target

Facts = Mapping[str, Mapping[str, Any]]


def look_at_targets(plan: Plan, *, elsewhere: bool) -> tuple[Facts, Mapping[str, str]]:
    """Facts by target; and, where the session is taken `elsewhere`, why a target is out of reach here.

    Of a target out of reach the facts are those that a pinned latency table tells, else none.
    Raises `TargetError` for a lost target, `UsageError` with every step that cannot do without it.
    """
    needed, further = plan.runtimes()
    facts: dict[str, Mapping[str, Any]] = {}
    unreached: dict[str, str] = {}
    for target in plan.recipe.targets:
        try:
            facts[target.name] = device_facts(target, backends=needed, further=further)
        except TargetError as error:
            if not elsewhere:
                raise
            facts[target.name] = _pinned_facts(plan, target)
            unreached[target.name] = error.what
    if problems := [problem for name in unreached for problem in _problems(plan, name, facts[name])]:
        raise UsageError("\n  - ".join(["targets are out of reach here:", *problems]))
    return facts, unreached


def absent_runtimes(facts: Facts) -> Iterator[str]:
    """What will not be measured because a target lacks the runtime of a row beside the one that ships."""
    for target, known in facts.items():
        for backend, reason in known.get("absent", {}).items():
            yield f"`{target}` has no {BACKENDS.load(backend).title}: not measured there ({reason})"


def _pinned_facts(plan: Plan, target: Target) -> Mapping[str, Any]:
    for spec in plan.recipe.steps:
        told = spec.config.device_facts().get(target.name)
        if told is not None:
            return {**told, "target": target.facts()}
    return {}


def _problems(plan: Plan, target: str, facts: Mapping[str, Any]) -> Iterator[str]:
    for step in plan.steps:
        stage: Stage = STAGES.load(step.stage)
        problem = stage.without_target(step.config, bool(facts))
        if problem is not None and not step.control:
            yield f"step `{step.name}`, `{target}`: {problem}"
