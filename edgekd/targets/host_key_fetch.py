"""Asks an ssh server for its host key, without trusting it: to be shown to somebody who can compare it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from edgekd.core.errors import TargetError
from edgekd.targets.addresses import SshAddress
from edgekd.targets.folders import private_folder
from edgekd.targets.host_keys import ALGORITHMS, HostKey, read_keys
from edgekd.targets.processes import finish
from edgekd.targets.ssh_errors import explain
from edgekd.targets.ssh_transport import secrets_of, who

_LIMIT_S = 40.0


def fetch_host_key(address: SshAddress, name: str) -> HostKey:
    """The server's key, of the strongest type that it has. Raises `TargetError` when it cannot be asked.

    By `ssh` itself, told not to log in, so that the user's configuration counts (other names, ports, jump
    hosts); `ssh-keyscan` does not read it. What ssh writes down is thrown away.
    """
    with private_folder("edgekd-key-") as folder:
        known = folder / "known_hosts"
        said = _ask(address, known, name)
        keys = read_keys(known.read_text()) if known.exists() else []
    if not keys:
        raise explain(said, name, "", secrets_of(address))
    return keys[0]


def _ask(address: SshAddress, known: Path, name: str) -> str:
    options = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "accept-new",
        "UserKnownHostsFile": str(known),
        "GlobalKnownHostsFile": "/dev/null",
        "HostKeyAlias": "edgekd",
        "HashKnownHosts": "no",
        "HostKeyAlgorithms": ",".join(name for names in ALGORITHMS.values() for name in names),
        "UpdateHostKeys": "no",
        "PreferredAuthentications": "none",
        "ConnectTimeout": "10",
        "ControlMaster": "no",
        "ControlPath": "none",
        "ClearAllForwardings": "yes",
        "PermitLocalCommand": "no",
        "LogLevel": "INFO",
    }
    words = [f"-o{key}={value}" for key, value in options.items()]
    try:
        process = subprocess.Popen(
            ["ssh", *words, *who(address), "--", address.host, "true"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise TargetError(f"cannot start ssh: {error.strerror or error}", where=name) from error
    return finish(process, b"", _LIMIT_S, name).stderr.decode(errors="replace")
