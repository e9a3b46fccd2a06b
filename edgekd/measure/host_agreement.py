"""How far a device answers as a host does with the same artifact and images: this machine, or another one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgekd.measure import accuracy
from edgekd.measure.accuracy import NOT_FINITE, Labels
from edgekd.measure.estimate import Estimate
from edgekd.measure.findings import HostAnswers

_MOST_NAMED = 20
_TOLD = ("machine", "cpu", "cpu_features", "vnni", "versions")


def host_agreement(host: HostAnswers, answered: Labels, device: Mapping[str, Any]) -> Estimate:
    """Share of the images with the same answer, with Wilson's interval; noted where it is not all of them.

    The detail names the first images that differ and how far logits lie apart, relative to the largest.
    """
    found = accuracy.agreement(host.predicted, answered)
    differ = np.flatnonzero((host.predicted != answered) | (answered == NOT_FINITE))
    detail = {
        **found.detail,
        "first_differing": differ[:_MOST_NAMED].tolist(),
        "most_apart": host.most_apart,
        "predictions_sha256": accuracy.digest(host.predicted),
        "host": {key: host.facts.get(key) for key in _TOLD},
    }
    notes = (_note(len(differ), found.n, host, device),) if len(differ) else ()
    return Estimate(found.value, found.interval, found.n, detail, notes=notes)


def _note(count: int, n: int, host: HostAnswers, device: Mapping[str, Any]) -> str:
    text = f"answers {count} of {n} images otherwise than {host.called} does"
    for where, lacking, other in ((host.called, host.facts, device), ("the target", device, host.facts)):
        if other.get("vnni") and not lacking.get("vnni") and lacking.get("machine") in ("x86_64", "AMD64"):
            text += f" ({where} has no VNNI: products of u8 x s8 may saturate there)"
    return text
