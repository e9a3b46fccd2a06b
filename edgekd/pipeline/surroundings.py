"""What a run works in: the opened data, the targets' facts and the settings that change numbers."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from edgekd.backends.backend import Backend
from edgekd.backends.catalogue import BACKENDS
from edgekd.core.digest import of_data
from edgekd.core.verdict import Limit
from edgekd.pipeline.gate import limits
from edgekd.pipeline.keys import ABSENT, library_version, machine_dtype
from edgekd.pipeline.plan import Plan, plans_of
from edgekd.pipeline.reach import look_at_targets
from edgekd.stages.context import Data
from edgekd.store.store import Store

STABLE_FACTS = ("machine", "cpu", "cpu_features", "vnni", "cores", "emulated", "target", "versions")
"""Facts of a target that decide what is built for it; load and temperature are not among them."""


@dataclass(frozen=True)
class Settings:
    """How the caller wants the run done; nothing here changes what the recipe means."""

    device: str = "auto"
    threads: int = 2
    fresh: bool = False
    until: str | None = None
    max_seconds: float | None = None
    elsewhere: bool = False
    """Everything is made and nothing measured: other machines do that, with targets out of reach here."""


@dataclass(frozen=True)
class Surroundings:
    """Everything outside the recipe that a step's result depends on."""

    data: Data
    target_facts: Mapping[str, Mapping[str, Any]]
    limits: Sequence[Limit]
    for_keys: Mapping[str, Any]
    unreached: Mapping[str, str]
    """Target -> why it is out of reach here; only where the session is taken elsewhere."""


def look_around(plan: Plan, store: Store, settings: Settings) -> Surroundings:
    """Open the data and ask the targets for their facts. Raises `DataError` and `TargetError`."""
    recipe = plan.recipe
    data = Data(recipe.source.open(recipe.source.split_seed), recipe.source, store)
    facts, unreached = look_at_targets(plan, elsewhere=settings.elsewhere)
    policy_limits = limits(recipe.gate, [target.name for target in recipe.targets])
    for_keys = {
        "seed": recipe.seed,
        "threads": settings.threads,
        "device": settings.device,
        "dtype": machine_dtype(),
        "data": data.digest,
        "labeled_data": data.labeled_digest,
        "targets": stable_digest(facts),
        "limits": of_data([limit.model_dump(mode="json", exclude={"source"}) for limit in policy_limits]),
        "plans": of_data(plans_of(plan)),
    }
    return Surroundings(data, facts, policy_limits, for_keys, unreached)


def stable_digest(facts: Mapping[str, Mapping[str, Any]]) -> str:
    """Digest of the facts, by target, that decide what is built and measured."""
    return of_data({name: {key: f[key] for key in STABLE_FACTS if key in f} for name, f in facts.items()})


def provenance(plan: Plan, around: Surroundings, settings: Settings) -> dict[str, Any]:
    """Facts that a reader needs to repeat the run: versions, machine, data, revision."""
    backends = [BACKENDS.load(name) for names in plan.runtimes() for name in names]
    return {
        "versions": library_versions(backends),
        "converters": converter_versions(backends),
        "platform": platform.platform(),
        "command": " ".join(["edgekd", *sys.argv[1:]]),
        "folder": str(Path.cwd()),
        "git": _git_revision(),
        "data": {"source": plan.recipe.source_name, "digest": around.data.digest, **around.data.digests},
        "data_notes": list(around.data.dataset.notes),
        "settings": {"device": settings.device, "threads": settings.threads, "seed": plan.recipe.seed},
        "targets": {name: dict(facts) for name, facts in around.target_facts.items()},
        "num_installed_packages": sum(1 for _ in distributions()),
    }


def library_versions(backends: Sequence[Backend]) -> dict[str, str]:
    """Of what every run uses, and of what these backends export with and run in, where it is here."""
    always = ("edgekd", "torch", "torchvision", "numpy", "onnx", "onnxruntime", "onnxscript")
    theirs = {name for backend in backends for name in (*backend.libraries, *backend.versions)}
    further = {name: library_version(name) for name in sorted(theirs - {*always})}
    return {
        "python": platform.python_version(),
        **{name: library_version(name) for name in always},
        **{name: version for name, version in further.items() if version != ABSENT},
    }


def converter_versions(backends: Sequence[Backend]) -> dict[str, dict[str, str]]:
    """Backend -> versions in the environment of its own in which it converts, of those that have one."""
    found = {backend.name: backend.converter_versions() for backend in backends}
    return {name: versions for name, versions in found.items() if versions}


def _git_revision() -> str | None:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
