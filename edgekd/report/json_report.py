"""The report as JSON, for machines: the facts as they are, pictures left out."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from edgekd.core.verdict import EXIT_CODES
from edgekd.report.facts import Facts


def render_json(facts: Facts) -> str:
    """One object; `schema_version` counts breaking changes, a number that is not finite is null."""
    document = _plain(facts)
    document["exit_code"] = EXIT_CODES[facts.outcome] if facts.outcome else None
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [one.name for one in dataclasses.fields(value) if one.name != "png"]
        return {name: _plain(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(key): _plain(below) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
