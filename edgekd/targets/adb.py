"""Phones and boards that are reached by `adb`. Experimental: no real phone has been measured yet."""

from __future__ import annotations

import re
from typing import Any, Literal

from edgekd.core.errors import TargetError, UsageError
from edgekd.targets.adb_transport import NETWORK, AdbTransport
from edgekd.targets.addresses import find_address, variable
from edgekd.targets.remote import RemoteTarget
from edgekd.targets.transport import Transport

SCHEME = "adb://"
_SERIAL = re.compile(r"[A-Za-z0-9_.\[\]][A-Za-z0-9_.:()\[\] -]*")


class AdbTarget(RemoteTarget):
    """A device with adb debugging on, and a Python that its shell may run. Its serial is not in here."""

    kind: Literal["adb"] = "adb"
    server_port: int | None = None
    """A port for an adb server of edgekd's own, which ends with the last session; None: the user's server."""

    def facts(self) -> dict[str, Any]:
        facts = {key: value for key, value in super().facts().items() if key != "server_port"}
        return {**facts, "experimental": True}

    def transport(self) -> Transport:
        try:
            address = find_address(self.name)
        except TargetError as error:
            fix = f"`edgekd device add {self.name} adb://SERIAL`, or set {variable(self.name)}=adb://SERIAL"
            raise TargetError(error.what, where=self.name, fix=fix) from error
        return AdbTransport(self.name, parse_adb(address, where=self.name), server_port=self.server_port)


def parse_adb(address: str, *, where: str) -> str | None:
    """The serial in `adb://SERIAL` or `adb://HOST:PORT`; None for `adb://`, the only device attached.

    Raises `UsageError`, which does not repeat the address.
    """
    serial = address.removeprefix(SCHEME).rstrip("/")
    port = NETWORK.fullmatch(serial)
    if (
        not address.startswith(SCHEME)
        or (serial and not _SERIAL.fullmatch(serial))
        or (port and not 0 < int(port[1]) < 65536)
    ):
        raise UsageError(
            "its address is none of adb's",
            where=where,
            choices=("adb://SERIAL", "adb://HOST:PORT", "adb:// (the only one attached)"),
            fix="`adb devices -l` lists the serials of what is attached",
        )
    return serial or None
