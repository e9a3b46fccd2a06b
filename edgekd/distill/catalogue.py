"""The methods a recipe may name. Importing this needs no torch; loading a method does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekd.core.registry import Entry, Registry

if TYPE_CHECKING:
    from edgekd.distill.card import Card
    from edgekd.distill.method import AnyMethod

_METHODS: dict[str, dict[str, str]] = {
    "response": {
        "none": "labels only: the control, and how teachers are trained",
        "kd": "softened class probabilities of one or more teachers (Hinton 2015); start here",
    },
    "feature": {
        "at": "spatial attention maps of the stages (Zagoruyko & Komodakis 2017)",
        "fitnets": "a phase of feature regression at a middle stage, then kd (Romero 2015)",
    },
    "relation": {},
    "peers": {},
    "branched": {},
    "chain": {},
    "adversarial": {},
    "synthetic": {},
}
"""Folder of `methods/` (by the shape of the code) -> method -> what it does, in one line."""


def _entry(folder: str, name: str, summary: str) -> Entry:
    """The method lives in `methods/<folder>/<name>.py`, with underscores for hyphens."""
    target = f"edgekd.distill.methods.{folder}.{name.replace('-', '_')}:METHOD"
    return Entry(name, target, summary, extra="train")


METHODS: Registry[AnyMethod] = Registry(
    "method",
    [
        _entry(folder, name, summary)
        for folder, methods in _METHODS.items()
        for name, summary in methods.items()
    ],
    group="edgekd.methods",
)


def card(name: str) -> Card:
    """A method's card. Raises `UsageError` for an unknown name."""
    return METHODS.load(name).card
