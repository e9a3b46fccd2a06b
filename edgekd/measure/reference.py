"""What a host answers with the artifacts that a target is compared by: asked here, or kept from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgekd.core.config import Config
from edgekd.core.durable import write_text
from edgekd.core.errors import AbsentRuntimeError, DataError, ModelError
from edgekd.measure.accuracy import Logits
from edgekd.measure.answers import Asked, Once, open_sets
from edgekd.measure.device import Device, open_device
from edgekd.measure.findings import Item
from edgekd.measure.protocol import Protocol
from edgekd.targets.local import LocalTarget

HOST = "host"
"""Folder of what a host answered."""
ELSEWHERE = "the machine that made it"
"""What a host is called that is not the one that measures."""
REFERENCE = "reference.json"
_TOLD = ("machine", "cpu", "cpu_features", "vnni", "versions")
"""Facts of a host that explain why it answers otherwise."""


class Reference(Config):
    """What a machine said beside its logits: `absent` is, by subject, why there are none."""

    facts: dict[str, Any]
    absent: dict[str, str] = {}


def logits_here(item: Item, host: Device, protocol: Protocol, folder: Path, once: Once) -> Logits:
    """Float32 `[N, C]` of one item on this machine, left in `folder`. Raises `ModelError`, `DataError`
    and `AbsentRuntimeError`.

    Of one item at a time, so that one which this machine cannot run spoils no other.
    """
    with open_sets([item], protocol) as sets:
        asked = Asked(sets, host, protocol, folder, once)
        asked.ask(HOST, "accuracy on this machine")
        for reason in asked.absent.values():
            raise AbsentRuntimeError(reason)
        return asked.logits(item)


def write_reference(items: Sequence[Item], protocol: Protocol, folder: Path, once: Once) -> None:
    """Leave this machine's logits of every item in `folder`, for sessions that other machines take."""
    absent = {}
    with open_device(LocalTarget(name=HOST)) as host:
        for item in items:
            try:
                logits_here(item, host, protocol, folder, once)
            except (ModelError, DataError, AbsentRuntimeError) as error:
                absent[item.subject.name] = error.what
        runtimes = sorted({host.runtime(item.subject.backend) for item in items})
        answer = host.call("facts", runtimes=runtimes, deadline_s=60)
    facts = {**answer["facts"], "versions": answer["versions"]}
    reference = Reference(facts={name: facts.get(name) for name in _TOLD}, absent=absent)
    write_text(folder / REFERENCE, reference.model_dump_json(indent=1) + "\n")


def read_reference(folder: Path) -> Reference:
    """Raises `DataError` for what `write_reference` did not leave."""
    path = folder / REFERENCE
    try:
        return Reference.model_validate(json.loads(path.read_bytes()))
    except (OSError, ValueError, ValidationError, RecursionError) as error:
        raise DataError(f"not what a host answered: {type(error).__name__}", where=str(path)) from error
