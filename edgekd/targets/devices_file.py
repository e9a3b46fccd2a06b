"""Reads `edgekd-devices.yaml`, which gives targets their names. It is committed, so no address is in it.

pi5: {kind: ssh, host_key: ssh-ed25519 AAAA..., fingerprint: "SHA256:...", cores: [2, 3]}
local: {kind: local, threads: 2}              # `local` is there without being listed
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgekd.core import plain_yaml
from edgekd.core.errors import UsageError, close_names
from edgekd.targets.catalogue import TARGET_KINDS
from edgekd.targets.local import LocalTarget
from edgekd.targets.target import Target

DEVICES_FILE = "edgekd-devices.yaml"
LOCAL = "local"


def read_targets(path: Path | None) -> dict[str, Target]:
    """Every named target. A `path` that does not exist gives `local` alone.

    Raises `UsageError` naming file and entry for bad YAML, an unknown kind and unknown or wrong options.
    """
    targets: dict[str, Target] = {LOCAL: LocalTarget(name=LOCAL)}
    if path is None or not path.exists():
        return targets
    for name, fields in _entries(path).items():
        targets[name] = target_of(name, fields, f"{path}: {name}")
    return targets


def select_targets(names: Sequence[str], targets: dict[str, Target]) -> list[Target]:
    """The named targets; raises `UsageError` with the choices for the first unknown one."""
    for name in names:
        if name not in targets:
            raise UsageError(
                f"`{name}` is not a target{close_names(name, targets)}",
                choices=sorted(targets),
                fix=f"describe it in {DEVICES_FILE}",
            )
    return [targets[name] for name in names]


def _entries(path: Path) -> dict[str, Any]:
    try:
        _, content = plain_yaml.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the targets: {error}", where=str(path)) from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UsageError("must map names to targets", where=str(path), fix="local: {kind: local}")
    return content


def target_of(name: str, fields: Any, where: str) -> Target:
    """The target that an entry describes; raises `UsageError`."""
    if not isinstance(fields, dict) or not isinstance(fields.get("kind"), str):
        raise UsageError("a target needs a `kind`", where=where, choices=TARGET_KINDS.names())
    try:
        kind = TARGET_KINDS.load(fields["kind"])
    except UsageError as error:
        raise UsageError(error.what, where=f"{where}.kind", choices=error.choices) from error
    try:
        return kind.model_validate({**fields, "name": name})
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc'])) or '(all)'}: {e['msg']}" for e in error.errors()]
        raise UsageError("; ".join(problems), where=where, choices=sorted(kind.model_fields)) from error
