"""Adds devices to the project, removes them, and tells what is known of them without asking them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgekd.core.errors import UsageError
from edgekd.targets import addresses
from edgekd.targets.adb import SCHEME as ADB
from edgekd.targets.adb import parse_adb
from edgekd.targets.devices_edit import remove_entry, write_entry
from edgekd.targets.devices_file import DEVICES_FILE, LOCAL, read_targets, select_targets
from edgekd.targets.host_key_fetch import fetch_host_key
from edgekd.targets.host_keys import FINGERPRINT, HostKey, given_key
from edgekd.targets.remote import RemoteTarget
from edgekd.targets.ssh import SshTarget
from edgekd.targets.target import Target

SSH = "ssh://"
SHOW_KEY = "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"


@dataclass(frozen=True)
class Newcomer:
    """A device about to be added. `key`: what an ssh server showed or the user gave; None by adb."""

    name: str
    address: str
    kind: str
    key: HostKey | None
    given: bool
    """Whether the user brought the key, so that there is nothing to confirm."""
    pinned: str | None
    """Fingerprint that the devices file has for this name so far."""

    @property
    def changed(self) -> bool:
        return self.pinned is not None and self.key is not None and self.pinned != self.key.fingerprint


def meet(name: str, address: str, *, host_key: str | None = None, fingerprint: str | None = None) -> Newcomer:
    """Look whom `address` belongs to; nothing is written. `fingerprint` is what its key must have.

    Raises `UsageError` for a bad name, address or key and another fingerprint, `TargetError` when it is away.
    """
    if name == LOCAL:
        raise UsageError(f"`{LOCAL}` is this machine; it is there without being added", where=name)
    _check_name(name)
    known = read_targets(Path(DEVICES_FILE)).get(name)
    pinned = known.fingerprint if isinstance(known, SshTarget) else None
    if address.startswith(ADB):
        parse_adb(address, where=name)
        return Newcomer(name, address, "adb", None, True, pinned)
    key = _key(name, address, host_key)
    _check(name, key, fingerprint)
    given = host_key is not None or fingerprint is not None
    return Newcomer(name, address, "ssh", key, given, pinned)


def _check_name(name: str) -> None:
    try:
        Target(name=name, kind="new")
    except ValidationError as error:
        raise UsageError(error.errors()[0]["msg"].removeprefix("Value error, "), where=name) from None


def _key(name: str, address: str, host_key: str | None) -> HostKey:
    if not address.startswith(SSH):
        choices = (f"{SSH}user@host[:port]", f"{ADB}SERIAL")
        raise UsageError("an address begins with how the device is reached", where=name, choices=choices)
    parsed = addresses.parse_ssh(address, where=name)
    return fetch_host_key(parsed, name) if host_key is None else given_key(host_key)


def _check(name: str, key: HostKey, fingerprint: str | None) -> None:
    if fingerprint is None:
        return
    if not FINGERPRINT.fullmatch(fingerprint):
        raise UsageError("a fingerprint is written as `SHA256:` and 43 characters", where="--fingerprint")
    if key.fingerprint != fingerprint:
        raise UsageError(
            f"its host key is {key.fingerprint}, not {fingerprint}: another device, or somebody in between",
            where=name,
            fix=f"on the device, `{SHOW_KEY}` shows the right one",
        )


def add(newcomer: Newcomer, fields: Mapping[str, Any]) -> list[str]:
    """Write the entry into the devices file and the address into the private one; returns what was done.

    Raises `UsageError` and `StoreError`.
    """
    pin = {} if newcomer.key is None else _pin(newcomer.key)
    write_entry(Path(DEVICES_FILE), newcomer.name, {"kind": newcomer.kind, **pin, **fields})
    addresses.remember(newcomer.name, newcomer.address)
    told = [
        f"{DEVICES_FILE} names it `{newcomer.name}` (commit this file; no address is in it)",
        f"its address is in {addresses.addresses_file()} (only you can read it); elsewhere, as in CI: set "
        f"{addresses.variable(newcomer.name)}",
    ]
    if addresses.source_of(newcomer.name) == addresses.variable(newcomer.name):
        told.append(f"{addresses.variable(newcomer.name)} is set, and goes before that file")
    return told


def _pin(key: HostKey) -> dict[str, str]:
    return {"host_key": key.line, "fingerprint": key.fingerprint}


def remove(name: str) -> list[str]:
    """Forget the device in this project and its address; returns what was done. The device is left alone."""
    told = []
    if remove_entry(Path(DEVICES_FILE), name):
        told.append(f"{name} is no longer in {DEVICES_FILE}")
    if addresses.forget(name):
        told.append(f"its address is no longer in {addresses.addresses_file()}")
    if not told:
        select_targets([name], read_targets(Path(DEVICES_FILE)))
    return told


def find(name: str) -> Target:
    """The target called `name`; raises `UsageError`."""
    return select_targets([name], read_targets(Path(DEVICES_FILE)))[0]


def find_remote(name: str) -> RemoteTarget:
    """The device called `name`; raises `UsageError`, also for this machine."""
    target = find(name)
    if not isinstance(target, RemoteTarget):
        raise UsageError(
            f"`{name}` is this machine ({target.kind})", where=name, fix="`edgekd doctor` looks at it"
        )
    return target


def told(name: str) -> dict[str, Any]:
    """What the project says of a device, and where its address is from, in words that do not tell it."""
    target = find(name)
    source = addresses.source_of(name) if isinstance(target, RemoteTarget) else "this machine"
    return {**target.model_dump(mode="json"), "address_from": source}


def listed() -> list[dict[str, Any]]:
    """`told` of every device, this machine first."""
    return [told(name) for name in read_targets(Path(DEVICES_FILE))]


def set_python(name: str, python: str) -> bool:
    """Let the entry name another Python; returns whether that changed anything."""
    if find_remote(name).python == python:
        return False
    write_entry(Path(DEVICES_FILE), name, {"python": python})
    return True
