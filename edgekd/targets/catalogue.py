"""The kinds of target that a devices file may name."""

from __future__ import annotations

from edgekd.core.registry import Entry, Registry
from edgekd.targets.target import Target

TARGET_KINDS: Registry[type[Target]] = Registry(
    "kind of target",
    [
        Entry("local", "edgekd.targets.local:LocalTarget", "this machine, in fresh processes"),
    ],
    group="edgekd.targets",
)
