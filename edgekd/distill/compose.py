"""From a recipe's settings to the program that the engine runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from edgekd.core.errors import UnmetNeedsError, UsageError
from edgekd.data.sampling import Sampler
from edgekd.distill.ablation import without
from edgekd.distill.catalogue import METHODS
from edgekd.distill.hooks import Ema
from edgekd.distill.method import Part, Roster, Task
from edgekd.distill.program import CopyOf, Given, Phase, Program, Role, student_turn
from edgekd.distill.settings import DistillSettings, MethodUse


def build_program(
    settings: DistillSettings,
    *,
    num_teachers: int = 0,
    student_taps: Sequence[str] = (),
    teacher_taps: Sequence[Sequence[str]] = (),
    labels: Mapping[str, tuple[str, ...]] | None = None,
) -> Program:
    """The program of the recipe's methods: their terms plus `task_weight` x cross-entropy, added once.

    The taps are names only, one sequence per teacher; labels: role -> class names. Raises `UsageError`
    naming every method whose need is not met (no teacher, several, no such tap), for a whole scheme listed
    beside other methods, and where `leave_out` names no term or leaves none. Taps that are `UnknownTaps` rule
    no name out.
    """
    roles = teacher_roles(num_teachers)
    taps = dict(zip(roles, map(_names, teacher_taps), strict=bool(teacher_taps)))
    task = Task(settings.task_weight, settings.label_smoothing)
    roster = Roster(roles, _names(student_taps), taps, labels or {}, task)
    built = _all_built(settings, roster)
    if len(built) == 1 and isinstance(built[0], Program):
        return without(built[0], settings.leave_out)
    parts = [item for item in built if isinstance(item, Part)]
    return without(compose(parts, roster), settings.leave_out)


def _names(taps: Sequence[str]) -> tuple[str, ...]:
    return taps if isinstance(taps, tuple) else tuple(taps)


def teacher_roles(num_teachers: int) -> tuple[str, ...]:
    """`teacher` for one; `teacher1`, `teacher2`, ... for several."""
    if num_teachers == 1:
        return ("teacher",)
    return tuple(f"teacher{number + 1}" for number in range(num_teachers))


def _all_built(settings: DistillSettings, roster: Roster) -> list[Part | Program]:
    """What every method adds; raises one `UsageError` with the problems of all."""
    built: list[Part | Program] = []
    problems: list[UsageError] = []
    for use in settings.method:
        try:
            item = _build(use, roster)
            _check_composable(use, item, len(settings.method))
            built.append(item)
        except UsageError as error:
            problems.append(error)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        head = f"{len(problems)} methods cannot run on what the recipe gives"
        raise UnmetNeedsError(head, problems=map(str, problems))
    return built


def _build(use: MethodUse, roster: Roster) -> Part | Program:
    method = METHODS.load(use.name)
    try:
        return method.build(method.settings.model_validate(use.parameters), roster)
    except UsageError as error:
        where = f"method `{use.name}`"
        raise UsageError(error.what, where=where, choices=error.choices, fix=error.fix) from error


def _check_composable(use: MethodUse, item: Part | Program, num_methods: int) -> None:
    if num_methods > 1 and isinstance(item, Program):
        raise UsageError(
            f"method `{use.name}` is a whole training scheme and cannot stand beside others",
            fix=f"use `method: {use.name}` alone",
        )


def compose(parts: Sequence[Part], roster: Roster) -> Program:
    """One student trained on the terms of all parts and the task; preceding phases one after another."""
    task = roster.task.term(roster.student, weight=min(part.task_weight for part in parts))
    terms = [term for part in parts for term in part.terms]
    student = student_turn((task, *terms), roster.student)
    beside = (train for part in parts for train in part.train)
    main = Phase(
        "main",
        (*(turn for part in parts for turn in part.turns), replace(student, train=(*student.train, *beside))),
        hooks=tuple(hook for part in parts for hook in part.hooks),
    )
    phases = (*(phase for part in parts for phase in part.before), main)
    return Program(_roles(parts, phases), phases, sampler=_sampler(parts))


def _sampler(parts: Sequence[Part]) -> Sampler:
    """The one that a part asks for; `shuffled` suits every part."""
    asked = [part.sampler for part in parts if part.sampler != "shuffled"]
    return asked[0] if asked else "shuffled"


def _roles(parts: Sequence[Part], phases: Sequence[Phase]) -> dict[str, Role]:
    """The parts' own roles, and as given networks whatever else the turns name."""
    roles: dict[str, Role] = {"student": Given()}
    for part in parts:
        roles.update(part.roles)
    for phase in phases:
        for turn in phase.turns:
            roles.update({role: Given() for role in turn.roles if role not in roles})
    return roles


def with_ema(program: Program, decay: float) -> Program:
    """The same program, deploying an exponential moving average of the deployed role."""
    role = f"{program.deploy.role}@ema"
    average = Ema(role, of=program.deploy.role, decay=decay)
    roles = {**program.roles, role: CopyOf(program.deploy.role)}
    return replace(program.with_hook(average), roles=roles, deploy=replace(program.deploy, role=role))
