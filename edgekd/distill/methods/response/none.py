"""No distillation: cross-entropy with the labels alone.

It is the control that every distilled student is compared with, and the program that trains teachers.
"""

from __future__ import annotations

from edgekd.core.config import Config
from edgekd.distill.card import Card
from edgekd.distill.method import Method, Part, Roster

CARD = Card(
    name="none",
    title="Training on labels alone",
    paper="-",
    equation="CE(y, z_s)",
    catalogue_id="gou-eq7-student-loss",
    knowledge="none",
    scheme="none",
    needs="labels",
    defaults="task weight 1",
    cost="nothing: it is what the others' costs are added to",
    zero_at_match=False,
    num_teachers=0,
)


class Settings(Config):
    """It has none."""


def build(settings: Settings, roster: Roster) -> Part:
    return Part()


METHOD = Method(CARD, Settings, build)
