"""Every name that a recipe may use has code behind it, and only one."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from edgekd.backends.catalogue import BACKENDS
from edgekd.backends.profile import PROFILES
from edgekd.core.errors import MissingDependencyError
from edgekd.core.registry import Entry, Registry
from edgekd.data.catalogue import SOURCES
from edgekd.distill.catalogue import METHODS
from edgekd.networks.names import NETWORKS
from edgekd.networks.transforms import TRANSFORMS
from edgekd.search.spaces import SPACES
from edgekd.search.strategy import STRATEGIES
from edgekd.stages.catalogue import STAGES
from edgekd.targets.catalogue import TARGET_KINDS
from tests.architecture.test_source_rules import CODE, ROOT

REGISTRIES: tuple[Registry[Any], ...] = (
    BACKENDS,
    SOURCES,
    METHODS,
    NETWORKS,
    SPACES,
    STRATEGIES,
    STAGES,
    TARGET_KINDS,
    TRANSFORMS,
    PROFILES,
)
ENTRIES = [(registry, entry) for registry in REGISTRIES for entry in registry]


@pytest.mark.parametrize(
    ("registry", "entry"), ENTRIES, ids=[f"{registry.kind}-{entry.name}" for registry, entry in ENTRIES]
)
def test_an_entry_loads(registry: Registry[Any], entry: Entry) -> None:
    try:
        assert registry.load(entry.name) is not None
    except MissingDependencyError as error:
        pytest.skip(f"needs the extra `{entry.extra}`: {error.what}")


def test_every_registry_is_among_those() -> None:
    """Found by what their modules hold, so that a new one cannot be forgotten here."""
    texts = {path: path.read_text() for path in CODE}
    modules = [path for path, text in texts.items() if " Registry(" in text or "= Registry(" in text]
    found = set()
    for path in modules:
        module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        found |= {id(value) for value in vars(module).values() if isinstance(value, Registry)}
    assert found == {id(registry) for registry in REGISTRIES}


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_a_name_is_registered_once(registry: Registry[Any]) -> None:
    names = registry.names()
    assert len(set(names)) == len(names) > 0
    entry = registry.entry(names[0])
    with pytest.raises(ValueError, match="registered twice"):
        registry.add(entry)


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_every_entry_says_what_it_is(registry: Registry[Any]) -> None:
    assert all(entry.summary and ":" in entry.target for entry in registry)
