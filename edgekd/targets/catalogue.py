"""The kinds of target that a devices file may name."""

from __future__ import annotations

from edgekd.core.registry import Entry, Registry
from edgekd.targets.target import Target

TARGET_KINDS: Registry[type[Target]] = Registry(
    "kind of target",
    [
        Entry("adb", "edgekd.targets.adb:AdbTarget", "a phone or board reached by adb (experimental)"),
        Entry("local", "edgekd.targets.local:LocalTarget", "this machine, in fresh processes"),
        Entry("ssh", "edgekd.targets.ssh:SshTarget", "a device with an ssh server and Python"),
    ],
    group="edgekd.targets",
)
