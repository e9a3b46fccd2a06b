"""Writes a first recipe from a look at the data, the teacher and the targets."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from edgekd.core.durable import replacing
from edgekd.core.errors import RecipeError, UsageError
from edgekd.data.inspect import Look, look_at
from edgekd.pipeline.plan import make_plan
from edgekd.pipeline.recipe import load_recipe
from edgekd.pipeline.teacher_look import FoundTeacher, look_at_teacher
from edgekd.pipeline.validation import check_recipe
from edgekd.targets.devices_file import DEVICES_FILE, read_targets, select_targets

_LARGEST_SMALL = 96
"""Pixels up to which networks that keep the full resolution in their first stage are affordable."""
_DISCORDANT = 0.03
"""Guess of the share of images on which teacher and student differ, to size the limit on the drop."""
_SHOWN_CLASSES = 6


def write_first_recipe(
    path: Path,
    data: str,
    teacher: str | None,
    network: str | None,
    targets: Sequence[str],
    *,
    force: bool = False,
) -> list[str]:
    """Write a recipe that validates; returns what was found, line by line, and what to do next.

    `data` is a path or a source's name; `teacher` and `network` as `look_at_teacher` takes them. Nothing is
    written unless the recipe validates. Raises `UsageError` for an existing file without `force`, `DataError`
    and `ModelError` for what cannot be used or does not fit together, `StoreError` when writing fails.
    """
    if path.exists() and not force:
        raise UsageError("the file exists already", where=str(path), fix="--force, or another file name")
    if path.suffix not in (".yaml", ".yml"):
        raise UsageError("a recipe's file name ends with .yaml", where=str(path))
    select_targets(targets, read_targets(Path(DEVICES_FILE)))
    found = look_at(data)
    learned = look_at_teacher(teacher, network, found)
    write_checked(path, recipe_text(path, found, learned, targets))
    return [*_told(found), *learned.told, f"targets: {', '.join(targets)}", *_next(path)]


def write_checked(path: Path, text: str) -> None:
    """Write a recipe if it validates; else raise what is wrong with it and leave `path` as it was."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        try:
            check_recipe(make_plan(load_recipe(str(temporary))))
        except RecipeError as error:
            problems = [problem.replace(str(temporary), str(path)) for problem in error.problems]
            raise RecipeError(problems, where=str(path)) from error


def _told(data: Look) -> list[str]:
    counts = ", ".join(f"{name} {count:,}" for name, count in data.num_images.items())
    return [f"data: {data.source}, {_described(data)}; {counts}", *(f"      note: {n}" for n in data.notes)]


def _next(path: Path) -> list[str]:
    return [
        f"wrote {path}; it validates",
        f"next: edgekd plan {path}    what will run, how long, and whether its gate can be decided",
        f"      edgekd run {path}",
    ]


def _described(data: Look) -> str:
    height, width = data.image_size
    color = "gray" if data.channels == 1 else "RGB"
    shown = ", ".join(_plain(name) for name in data.classes[:_SHOWN_CLASSES])
    more = ", ..." if len(data.classes) > _SHOWN_CLASSES else ""
    return f"{width}x{height} {color}, {len(data.classes)} classes ({shown}{more})"


def _plain(name: str) -> str:
    """A class name for a comment: a folder's name may hold anything, a line break among it."""
    return "".join(c if c.isprintable() else "?" for c in name)[:30]


# --- the text -----------------------------------------------------------------------------------------------


def recipe_text(path: Path, data: Look, teacher: FoundTeacher, targets: Sequence[str]) -> str:
    """The recipe as YAML with comments."""
    drop = drop_limit_points(data.num_images["test"])
    lines = [
        "# Written by `edgekd init` after a look at the data, the teacher and the targets.",
        "# What is left out has a default: `edgekd schema` and `edgekd validate --json FILE` show all of it.",
        f"name: {recipe_name(path)}",
        "",
        f"# {_described(data)}",
        *_section("data", data.settings),
        "",
        "# What the student learns from; it is scored on validation images before anything else.",
        *_section("teacher", teacher.keys, teacher.remarks),
        "",
        f"# Where the artifact is measured; other places are described in {DEVICES_FILE}.",
        f"targets: {json.dumps(list(targets))}",
        "",
        "# What must hold of the artifact that ships: pass, fail, or inconclusive with what would decide it.",
        "gate:",
        f"  # {data.num_images['test']:,} test images can decide a drop of about this size.",
        f"  accuracy_drop: {{max: {drop:g}pt, against: teacher}}",
        "  speedup: {min: 2x, against: teacher}",
        *_size_limit(teacher.size_bytes),
        "",
        "steps:",
        "  - teacher: {}",
        f"  - select: {{space: {_space(data)}}}  # the best student within the gate's budget, by measuring",
        "  - distill: {method: kd, epochs: 30}  # a control without a teacher runs beside it",
        "  - quantize: {method: kd, epochs: 5}  # INT8; calibration alone runs beside it",
        "  - export: {}",
    ]
    return "\n".join(lines) + "\n"


def recipe_name(path: Path) -> str:
    """The file's name as a recipe may be called."""
    name = re.sub(r"[^a-z0-9_-]+", "-", path.stem.lower()).strip("-_")[:40]
    return name if re.match(r"[a-z]", name) else f"recipe-{name}".strip("-")[:40]


def drop_limit_points(num_test: int) -> float:
    """A limit on the drop, in points, that this many test images can decide: 1.5 half-widths, at least 1.

    The half-width of the paired difference is about 1.96 sqrt(d / n) for a share d of images on which the two
    differ (Newcombe 1998, method 10, for small differences).
    """
    half_width = 1.96 * math.sqrt(_DISCORDANT / max(1, num_test)) * 100
    return max(1.0, math.ceil(1.5 * half_width * 2) / 2)


def _size_limit(teacher_bytes: int | None) -> list[str]:
    if teacher_bytes is None:
        return ["  # size: {max: 1MB}"]
    kilobytes = float(f"{max(teacher_bytes / 4 / 1000, 20):.2g}")
    return [f"  size: {{max: {kilobytes:g}KB}}  # a quarter of the teacher's weights"]


def _space(data: Look) -> str:
    return "resnet_small" if max(data.image_size) <= _LARGEST_SMALL else "mobilenet_small"


def _section(name: str, keys: Mapping[str, Any], remarks: Mapping[str, str] | None = None) -> list[str]:
    lines = [f"{name}:"]
    for key, value in keys.items():
        remark = f"  # {remarks[key]}" if remarks and key in remarks else ""
        lines.append(f"  {key}: {_value(value)}{remark}")
    return lines


def _value(value: Any) -> str:
    """One value on one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
