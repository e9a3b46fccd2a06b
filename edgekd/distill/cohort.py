"""Networks that learn beside the student: who they are, and their cross-entropies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from edgekd.core.config import Config
from edgekd.distill.method import STUDENT, Roster
from edgekd.distill.program import Architecture, Fresh, Given, Role, Term


class PeerNetwork(Config):
    """A network of the catalogue (`edgekd list networks`) and its arguments."""

    network: str
    args: dict[str, Any] = Field(default_factory=dict)


Peers = Annotated[int, Field(ge=1)] | Annotated[tuple[PeerNetwork, ...], Field(min_length=1)]
"""Beside the student: how many networks of its architecture, or which other networks."""


def cohort(peers: Peers) -> dict[str, Role]:
    """`student`, as given, and `peer1`, `peer2`, ..., each with starting weights of its own."""
    if isinstance(peers, int):
        others: list[Role] = [Fresh(STUDENT)] * peers
    else:
        others = [Architecture(peer.network, peer.args) for peer in peers]
    return {STUDENT: Given()} | {f"peer{number}": role for number, role in enumerate(others, 1)}


def others_of(role: str, roles: Sequence[str]) -> tuple[str, ...]:
    return tuple(other for other in roles if other != role)


def tasks(roster: Roster, roles: Sequence[str], views: Mapping[str, str] | None = None) -> dict[str, Term]:
    """Cross-entropy of every role with the labels: `task` for the student, `task:peer1`, ... for the others.

    views: role -> the view that it sees; `x` for all by default.
    """
    seen = dict.fromkeys(roles, "x") | dict(views or {})
    names = {role: "task" if role == STUDENT else f"task:{role}" for role in roles}
    return {role: roster.task.term(role, name=names[role], view=seen[role]) for role in roles}
