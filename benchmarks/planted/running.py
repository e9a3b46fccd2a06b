"""Runs one case through the command line, in this process, in a folder of its own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

import edgekd.pipeline.audit  # noqa: F401 - what a first case would import is not part of its time
from edgekd.cli.main import exit_code_of
from edgekd.measure.protocol import PROTOCOLS, Protocol, WarmUp
from planted.zoo import Graph, Images, Labels, Net, built, save_npz

GLANCE, BRISK = "glance", "brisk"
"""Profiles of the benchmark: the first starts one process, which judges no times, the second five."""
_SHORT = WarmUp(min_s=0.02, min_count=10, max_s=0.2)
_PROFILES = (
    Protocol(
        name=GLANCE,
        min_duration_s=0.05,
        min_count=64,
        num_processes=1,
        warm_up=_SHORT,
        memory_processes=1,
        memory_runs=3,
        cooldown_s=0,
        retry=False,
    ),
    Protocol(
        name=BRISK,
        min_duration_s=1.5,
        min_count=100,
        warm_up=_SHORT,
        memory_processes=1,
        memory_runs=3,
        cooldown_s=0.5,
        most_processes=15,
    ),
)


@dataclass(frozen=True)
class Outcome:
    """What a command came to. `text` is all that it said; `told` the machine-readable part, if any."""

    code: int
    text: str
    told: dict[str, Any]
    seconds: float

    @property
    def passed(self) -> bool:
        return self.code == 0

    @property
    def reasons(self) -> list[str]:
        """Why it did not pass: the open and failed limits and findings, or the error."""
        results = self.told.get("verdict", self.told).get("results", [])
        found = [
            f"{one['outcome']} {one.get('finding') or one['limit']['quantity']}: {one['reason']}"
            for one in results
            if one["outcome"] != "pass"
        ]
        if not found and self.code in (2, 4, 5, 70):
            found = [" ".join(self.text.split())]
        return found


class Place:
    """A folder to work in, with its own store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def command(self, *arguments: str, **variables: str) -> Outcome:
        """`edgekd ARGUMENTS` in this folder."""
        out, err = io.StringIO(), io.StringIO()
        started = time.monotonic()
        with (
            _inside(self.folder, variables),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = exit_code_of([*arguments])
        text = out.getvalue() + err.getvalue()
        return Outcome(code, text, _json_in(out.getvalue()), round(time.monotonic() - started, 2))

    def audit(
        self,
        model: Path,
        data: Path | str,
        *options: str,
        spec: dict[str, Any] | None = None,
        protocol: str = GLANCE,
        **variables: str,
    ) -> Outcome:
        """`edgekd audit` with a specification written from plain data."""
        (self.folder / "spec.yaml").write_text(yaml.safe_dump({"protocol": protocol, **(spec or {})}))
        return self.command(
            "audit", str(model), "--data", str(data), "--spec", "spec.yaml", "--json", *options, **variables
        )

    def run_folder(self) -> Path:
        """The only run in the store."""
        (found,) = (self.folder / ".edgekd" / "runs").glob("*/*/record.json")
        return found.parent


@contextlib.contextmanager
def _inside(folder: Path, variables: dict[str, str]) -> Iterator[None]:
    """In the folder, with the variables, and with the benchmark's profiles among those that have a name."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    PROTOCOLS.update({profile.name: profile for profile in _PROFILES})
    try:
        with contextlib.chdir(folder):
            yield
    finally:
        for profile in _PROFILES:
            PROTOCOLS.pop(profile.name, None)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _json_in(text: str) -> dict[str, Any]:
    for candidate in (text, *reversed(text.splitlines())):
        with contextlib.suppress(ValueError):
            found = json.loads(candidate)
            if isinstance(found, dict):
                return found
    return {}


# --- cases --------------------------------------------------------------------------------------------------

Kind = Literal["defect", "sound"]


@dataclass(frozen=True)
class Case:
    """`expects`: a pattern that one of the reasons must match. `skip` says why it cannot run here, if so."""

    name: str
    kind: Kind
    run: Callable[[Place], Outcome]
    expects: str = ""
    fast: bool = False
    skip: Callable[[], str | None] = lambda: None


CASES: dict[str, Case] = {}


def defect(
    expects: str, *, fast: bool = False, skip: Callable[[], str | None] = lambda: None
) -> Callable[[Callable[[Place], Outcome]], Callable[[Place], Outcome]]:
    """Register a function that plants what its name says; nothing like it may pass."""

    def register(function: Callable[[Place], Outcome]) -> Callable[[Place], Outcome]:
        _add(Case(_name(function), "defect", function, expects, fast, skip))
        return function

    return register


def sound(
    *, fast: bool = False, skip: Callable[[], str | None] = lambda: None
) -> Callable[[Callable[[Place], Outcome]], Callable[[Place], Outcome]]:
    """Register a function that audits what is right and meets its limits clearly."""

    def register(function: Callable[[Place], Outcome]) -> Callable[[Place], Outcome]:
        _add(Case(_name(function), "sound", function, fast=fast, skip=skip))
        return function

    return register


def add_sound(name: str, run: Callable[[Place], Outcome]) -> None:
    _add(Case(name, "sound", run))


def _add(case: Case) -> None:
    assert case.name not in CASES, case.name
    CASES[case.name] = case


def _name(function: Callable[..., Any]) -> str:
    return function.__name__.strip("_").replace("_", "-")


# --- what most cases share ----------------------------------------------------------------------------------

VICTIM = Net()
"""99.7 % on the test half of `tinted`."""
WEAK = Net(seed=5, width=6, grid=2, fewest=120)
"""Right on eight images of ten."""
FLOOR = "93%"


def specification(net: Net = VICTIM, *, labels: bool = True, **gate: Any) -> dict[str, Any]:
    """The true specification of a net and a gate that it meets with points to spare."""
    spec: dict[str, Any] = {
        "preprocess": net.preprocess(),
        "gate": {"accuracy": FLOOR, "size": "1MB", **gate},
    }
    return {**spec, "labels": list(net.source.classes)} if labels else spec


def test_file(
    place: Place, net: Net = VICTIM, images: Images | None = None, labels: Labels | None = None
) -> Path:
    """The test half as an .npz, some of it replaced."""
    own, truth = net.source.test
    return save_npz(
        place / "test.npz",
        own if images is None else images,
        truth if labels is None else labels,
        net.source.classes,
    )


def audited(
    place: Place,
    graph: Graph | None = None,
    *options: str,
    net: Net = VICTIM,
    images: Images | None = None,
    labels: Labels | None = None,
    spec: dict[str, Any] | None = None,
    **more: Any,
) -> Outcome:
    """The usual case: a graph, the test half, the true specification, each replaced where it is given."""
    model = (graph or built(net)).save(place / "model.onnx")
    data = test_file(place, net, images, labels)
    return place.audit(model, data, *options, spec=spec or specification(net), **more)


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng([99, *seed])
