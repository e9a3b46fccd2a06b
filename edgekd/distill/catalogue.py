"""The methods a recipe may name. Importing this needs no torch; loading a method does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekd.core.registry import Entry, Registry

if TYPE_CHECKING:
    from edgekd.distill.card import Card
    from edgekd.distill.method import AnyMethod

METHODS: Registry[AnyMethod] = Registry(
    "method",
    [
        Entry(
            "none",
            "edgekd.distill.methods.response.none:METHOD",
            "labels only: the control, and how teachers are trained",
            extra="train",
        ),
        Entry(
            "kd",
            "edgekd.distill.methods.response.kd:METHOD",
            "softened class probabilities of one or more teachers (Hinton 2015); start here",
            extra="train",
        ),
        Entry(
            "at",
            "edgekd.distill.methods.feature.at:METHOD",
            "spatial attention maps of the stages (Zagoruyko & Komodakis 2017)",
            extra="train",
        ),
        Entry(
            "fitnets",
            "edgekd.distill.methods.feature.fitnets:METHOD",
            "a phase of feature regression at a middle stage, then kd (Romero 2015)",
            extra="train",
        ),
    ],
    group="edgekd.methods",
)


def card(name: str) -> Card:
    """A method's card. Raises `UsageError` for an unknown name."""
    return METHODS.load(name).card
