"""What ssh says when it fails, in words that help and do not tell where the device is."""

from __future__ import annotations

import re
from collections.abc import Iterable

from edgekd.core.errors import TargetError
from edgekd.targets.addresses import variable
from edgekd.targets.host_keys import FINGERPRINT
from edgekd.targets.transport import full_disk

_TAIL_CHARACTERS = 600
_IPV4 = r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w])"
_HEX = "[0-9A-Fa-f]{1,4}"
_GROUPS = f"(?:{_HEX}(?::{_HEX})*)?"
_IPV6 = rf"(?<![\w:])(?:(?:{_HEX}:){{7}}{_HEX}|{_GROUPS}::{_GROUPS})(?:%\w+)?(?![\w:])"
_NOISE = ("Warning: ", "@@@", "debug1:", "mux_client", "Control socket", "ControlSocket")
HIDDEN = "<address>"

# What ssh says (looked for in this order), what it means, and what helps; `{name}` is the device's.
_MEANINGS: tuple[tuple[str, str, str], ...] = (
    (
        r"Could not resolve hostname",
        "its name is not known to this network",
        "is it switched on and in this network? Try the number (IP) in place of the name",
    ),
    (
        r"Connection refused",
        "it refuses the connection: nothing listens on that port",
        "is the ssh server running there (`sudo systemctl enable --now ssh`), and is the port right?",
    ),
    (
        r"kex_exchange_identification|Connection closed by",
        "it closed the connection before the login",
        "is that port really an ssh server's? Its log says more (`journalctl -u ssh`)",
    ),
    (
        r"Timeout, server .* not responding|client_loop: send disconnect|Broken pipe|Connection reset by peer"
        r"|closed by remote host",
        "the link to it was lost",
        "look at cable, power and Wi-Fi, then run the same command again: it continues where it was",
    ),
    (
        r"timed out|No route to host|Network is unreachable|Host is down|Host is unreachable",
        "it cannot be reached",
        "is it switched on and in the same network, and is its address still the same?",
    ),
    (
        r"Too many authentication failures",
        "it closed the connection after too many keys were tried",
        "name the right one: {variable}_KEY=~/.ssh/id_ed25519",
    ),
    (
        r"bad permissions|UNPROTECTED PRIVATE KEY",
        "the private key's file may be read by others, so ssh does not use it",
        "chmod 600 the key's file",
    ),
    (
        r"Identity file .* not accessible",
        "the private key's file is not there",
        "correct {variable}_KEY",
    ),
    (
        r"Permission denied|no more authentication methods|No supported authentication",
        "it does not accept this user's key",
        "`ssh-copy-id` your key to it; a key with a passphrase needs ssh-agent (`ssh-add`); another key: "
        "{variable}_KEY=~/.ssh/other",
    ),
    (
        r"Session open refused|administratively prohibited",
        "its ssh server allows no further session on a connection",
        "set `MaxSessions 10` in its sshd_config",
    ),
)


def explain(said: str, name: str, pinned: str, secrets: Iterable[str]) -> TargetError:
    """The error behind ssh's own words; `secrets` and whatever looks like an address are left out."""
    changed = _other_key(said, name, pinned)
    if changed is not None:
        return changed
    for sign, meaning, fix in _MEANINGS:
        if re.search(sign, said):
            return TargetError(meaning, where=name, fix=fix.format(name=name, variable=variable(name)))
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith(_NOISE)]
    tail = redact(" ".join(lines)[-_TAIL_CHARACTERS:], secrets)
    if not tail:
        return TargetError(
            "the link to it was lost without a word: ssh here or its session there was killed",
            where=name,
            fix="run the same command again: it continues where it was",
        )
    return TargetError(f"the ssh connection failed: {tail}", where=name)


def _other_key(said: str, name: str, pinned: str) -> TargetError | None:
    again = f"if it was installed anew: `edgekd device add {name} ssh://user@host` shows and pins its new key"
    if "no matching host key type" in said:
        what = f"it offers no host key of the pinned type (pinned: {pinned})"
        return TargetError(what, where=name, fix=again)
    if "Host key verification failed" not in said and "IDENTIFICATION HAS CHANGED" not in said:
        return None
    seen = next((key for key in FINGERPRINT.findall(said) if key != pinned), "another one")
    what = f"its host key is {seen}, pinned is {pinned}: it is another device, or somebody in between"
    return TargetError(what, where=name, fix=again)


def not_written(said: str, name: str, file: str, size: int) -> TargetError:
    """Why a file did not arrive: `said` is what `cat` and then `df -Pk` printed."""
    if re.search(r"No space left|quota exceeded", said):
        free = re.search(r"\s(\d+)\s+\d+%\s", said)
        return full_disk(name, f"push {file} ({size / 1e6:.1f} MB)", int(free[1]) * 1024 if free else None)
    reason = next((line for line in said.splitlines() if line.strip()), "it did not arrive whole")
    return TargetError(f"cannot push {file}: {reason.strip()[-_TAIL_CHARACTERS:]}", where=name)


def hide(text: str, secrets: Iterable[str]) -> str:
    """`text` without the names of the device, also with a user before them."""
    for secret in sorted({secret for secret in secrets if secret}, key=len, reverse=True):
        if secret in text:
            text = re.sub(rf"(?<![\w.-])([\w.\\-]+@)?{re.escape(secret)}(?![\w-])", HIDDEN, text)
    return text


def redact(text: str, secrets: Iterable[str]) -> str:
    """ssh's own words without names, IP numbers and ports."""
    text = re.sub(rf"([\w.\\-]+@)?\[?(?:{_IPV4}|{_IPV6})\]?", HIDDEN, hide(text, secrets))
    return re.sub(r"\bport \d+", "port <number>", text)
