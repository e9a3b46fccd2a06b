"""Devices that are reached by the system's `ssh`: one connection a session, which its commands share.

The user's ssh configuration counts (names, jump hosts, keys, agent), but for the host key: only the one that
the devices file pins is accepted. Files go through `cat`, not through scp: it is there on every device, a
login shell's chatter cannot break it, and a full disk says that it is full (sftp says `Failure`).
"""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from edgekd.targets.addresses import find_address, find_key, parse_ssh
from edgekd.targets.host_keys import parse_key
from edgekd.targets.remote import RemoteTarget
from edgekd.targets.ssh_transport import SshTransport
from edgekd.targets.transport import Transport


class SshTarget(RemoteTarget):
    """A device with an ssh server and Python; its address is not in here (`edgekd.targets.addresses`)."""

    kind: Literal["ssh"] = "ssh"
    host_key: str
    """The only key accepted: `ssh-ed25519 AAAA...`, public."""
    fingerprint: str
    """`SHA256:...` of `host_key`, for people to compare."""

    @model_validator(mode="after")
    def _same_key(self) -> SshTarget:
        if parse_key(self.host_key).fingerprint != self.fingerprint:
            raise ValueError(
                "fingerprint and host_key do not belong together; `edgekd device add` writes both"
            )
        return self

    def transport(self) -> Transport:
        address = parse_ssh(find_address(self.name), where=self.name)
        return SshTransport(self.name, address, parse_key(self.host_key), find_key(self.name))
