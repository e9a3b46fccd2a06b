"""What is found wrong with a graph, and how wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["rejected", "accepted, but wrong or slow"]
REJECTED: Severity = "rejected"
ACCEPTED: Severity = "accepted, but wrong or slow"


@dataclass(frozen=True)
class Finding:
    """One thing wrong with one node (or, for `node` empty, with the file)."""

    severity: Severity
    rule: str
    node: str
    what: str
    why: str
    fix: str

    def __str__(self) -> str:
        place = f"{self.node}: " if self.node else ""
        return f"{self.severity}: {place}{self.what} ({self.why}); fix: {self.fix}"
