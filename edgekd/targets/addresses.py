"""Where a device is: from the environment or a private file, and never in the project, a report or a log."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edgekd.core import plain_yaml
from edgekd.core.durable import replacing
from edgekd.core.errors import TargetError, UsageError

SSH = "ssh"
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:%-]*|:[A-Fa-f0-9:]+")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@\\-]*")


@dataclass(frozen=True)
class SshAddress:
    """`ssh://[user@]host[:port]`; the user's ssh configuration says the rest. Printing it hides it."""

    host: str = field(repr=False)
    user: str | None = field(default=None, repr=False)
    port: int | None = field(default=None, repr=False)


def parse_ssh(text: str, *, where: str) -> SshAddress:
    """Raises `UsageError`, which does not repeat the address."""
    try:
        url = urlsplit(text)
        host, user, port = _host_of(url.netloc), url.username, url.port
    except ValueError:
        raise _not_ssh(where) from None
    plain = not (url.path.strip("/") or url.query or url.fragment or url.password is not None)
    named = _HOST.fullmatch(host) and (user is None or _USER.fullmatch(user))
    if url.scheme != SSH or not plain or not named or port == 0:  # a leading `-` would be an option of ssh
        raise _not_ssh(where)
    return SshAddress(host, user, port)


def _host_of(netloc: str) -> str:
    """As it was written: ssh's configuration tells `Pi5` from `pi5`."""
    host = netloc.rpartition("@")[2]
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _not_ssh(where: str) -> UsageError:
    return UsageError(
        "its address must be written as `ssh://user@host:port`", where=where, fix="ssh://pi@pi5.lan"
    )


def variable(name: str, suffix: str = "") -> str:
    """The environment variable of a device: `EDGEKD_DEVICE_PI5`."""
    return "EDGEKD_DEVICE_" + re.sub(r"[^A-Za-z0-9]", "_", name).upper() + suffix


def addresses_file() -> Path:
    """The private file, of this user on this machine."""
    root = os.environ.get("XDG_CONFIG_HOME")
    home = Path(root) if root and Path(root).is_absolute() else Path.home() / ".config"
    return home / "edgekd" / "addresses.yaml"


def find_address(name: str) -> str:
    """The device's address. Raises `TargetError` where it is not known on this machine."""
    address = os.environ.get(variable(name)) or _read().get(name)
    if address is None:
        raise TargetError(
            "its address is not known on this machine",
            where=name,
            fix=f"`edgekd device add {name} ssh://user@host`, or set {variable(name)}=ssh://user@host",
        )
    return address


def source_of(name: str) -> str | None:
    """Where the address comes from, in words that do not tell it; None if it is not known."""
    if os.environ.get(variable(name)):
        return variable(name)
    return str(addresses_file()) if name in _read() else None


def find_key(name: str) -> Path | None:
    """The private key file that `EDGEKD_DEVICE_<NAME>_KEY` names; None leaves it to ssh and its agent."""
    path = os.environ.get(variable(name, "_KEY"))
    return Path(path).expanduser() if path else None


def remember(name: str, address: str) -> None:
    """Write the address into the private file, which only its owner may read. Raises `StoreError`."""
    _write({**_read(), name: address})


def forget(name: str) -> bool:
    """Remove the address from the private file; returns whether it was there. Raises `StoreError`."""
    known = _read()
    if name in known:
        _write({other: address for other, address in known.items() if other != name})
    return name in known


def _read() -> dict[str, str]:
    path = addresses_file()
    try:
        _, content = plain_yaml.parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the addresses: {_kind(error)}", where=str(path)) from None
    content = {} if content is None else content
    if not isinstance(content, dict) or not all(isinstance(v, str) for kv in content.items() for v in kv):
        raise UsageError(
            "must map names of devices to addresses", where=str(path), fix="pi5: ssh://pi@pi5.lan"
        )
    return content


def _kind(error: Exception) -> str:
    """A parser's message may quote the address."""
    return str(error.strerror) if isinstance(error, OSError) and error.strerror else "it is not valid YAML"


def _write(addresses: dict[str, str]) -> None:
    import yaml

    text: Any = yaml.safe_dump(addresses, default_flow_style=False) if addresses else ""
    path = addresses_file()
    with replacing(path) as temporary:
        temporary.touch(mode=0o600)
        temporary.write_text(
            "# Where the devices are; written by `edgekd device add`. Keep it private.\n" + text
        )
