"""Public keys by which an ssh server is recognized, and their fingerprints."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from edgekd.core.errors import UsageError

ALGORITHMS = {
    "ssh-ed25519": ("ssh-ed25519",),
    "ecdsa-sha2-nistp256": ("ecdsa-sha2-nistp256",),
    "ecdsa-sha2-nistp384": ("ecdsa-sha2-nistp384",),
    "ecdsa-sha2-nistp521": ("ecdsa-sha2-nistp521",),
    "ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256"),
}
"""Type of a key -> the signature algorithms that it is accepted with, the best first."""
FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
_MOST_BYTES = 65_536


@dataclass(frozen=True)
class HostKey:
    """One public key: `ssh-ed25519 AAAA...`."""

    kind: str
    blob: bytes

    @property
    def line(self) -> str:
        return f"{self.kind} {base64.b64encode(self.blob).decode()}"

    @property
    def fingerprint(self) -> str:
        """`SHA256:...`, as `ssh-keygen -lf` on the device prints it."""
        digest = base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")
        return f"SHA256:{digest}"

    @property
    def algorithms(self) -> str:
        return ",".join(ALGORITHMS[self.kind])


def parse_key(line: str) -> HostKey:
    """The key in a line of `ssh-keyscan`, of known_hosts or of a `.pub` file. Raises `ValueError`."""
    words = line.split()
    at = next((i for i, word in enumerate(words) if word in ALGORITHMS), None)
    if at is None or at + 1 == len(words):
        raise ValueError(f"no host key; its type must be one of: {', '.join(ALGORITHMS)}")
    try:
        blob = base64.b64decode(words[at + 1], validate=True)
    except binascii.Error as error:
        raise ValueError("the host key is not valid base64") from error
    kind = words[at].encode()
    if blob[: 4 + len(kind)] != len(kind).to_bytes(4, "big") + kind:
        raise ValueError(f"the host key is damaged, or not of type {words[at]}")
    return HostKey(words[at], blob)


def read_keys(text: str) -> list[HostKey]:
    """The keys in the output of `ssh-keyscan` or a known_hosts file, the strongest kind first.

    Comments and what is not a key are left out.
    """
    found = []
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                found.append(parse_key(line))
            except ValueError:
                continue
    return sorted(found, key=lambda key: list(ALGORITHMS).index(key.kind))


def given_key(text: str) -> HostKey:
    """The key that a user gives: a line, or a file that holds one. Raises `UsageError`."""
    try:
        return parse_key(text)
    except ValueError:
        pass
    try:
        content = Path(text).read_bytes()[:_MOST_BYTES].decode(errors="replace")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"neither a host key nor a file with one: {error}", where="--host-key", fix=_FIX
        ) from error
    keys = read_keys(content)
    if not keys:
        raise UsageError("no host key in it", where=text, fix=_FIX)
    return keys[0]


_FIX = "on the device: `cat /etc/ssh/ssh_host_ed25519_key.pub`"
