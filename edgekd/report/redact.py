"""A report without what tells who made it and where: hosts, users, paths, environment, remotes, addresses.

Works on the finished facts, so that nothing is looked up by a name that has been replaced. Values below a
telling key (`hostname`, `user`, `env`, ...) go entirely, and wherever else they occur as a word; paths,
remotes and addresses are recognised by their form.
"""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edgekd.report.facts import Facts

GONE = "[redacted]"
_TELLING = re.compile(
    r"(^|_)(host|hostname|hosts|node|nodename|user|username|login|home|env|environ|environment|remote|remotes"
    r"|origin|url|serial|ip|mac|address|cwd|folder|path|ssh|email|author)($|_)",
    re.IGNORECASE,
)
_FORMS = (
    re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s\"'`<>]+", re.IGNORECASE),
    re.compile(r"\b[\w.+-]+@[\w.-]+(?::[^\s\"'`<>]+)?"),
    re.compile(r"\b[A-Za-z]:[\\/][^\s\"'`<>|]*"),
    re.compile(r"\\\\[\w.-]+\\[^\s\"'`<>|]*"),
    re.compile(r"(?<![\w.~/-])~[\w.-]*(?:/[^\s\"'`<>:,;)]*)?(?=[\s/\"'`<>:,;)]|$)"),
    re.compile(r"(?<![\w.\])}/])/(?=[\w.~-])[^\s\"'`<>:,;)]+"),
    re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}\b"),
    re.compile(r"\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b", re.IGNORECASE),
)
_SHORTEST_SECRET = 3
_COMMON_NAMES = frozenset(
    {"root", "user", "runner", "ubuntu", "admin", "localhost", "nobody", "none", "null"}
)
"""Names that tell nothing and are words of every recipe (`root: photos/`)."""
_WORDS = frozenset({"quantity", "role", "outcome", "answer", "worth", "knowledge", "status", "png"})
"""Fields that hold one of a few words of ours."""


def redact(facts: Facts) -> Facts:
    """The same facts, with every telling text replaced by `[redacted]`."""
    secrets = sorted({*_secrets(facts), *_own_names()} - _COMMON_NAMES, key=len, reverse=True)
    words = (
        re.compile("|".join(rf"(?<!\w){re.escape(secret)}(?!\w)" for secret in secrets)) if secrets else None
    )

    def clean(text: str) -> str:
        text = _without_forms(text)
        return words.sub(GONE, text) if words else text

    result = _walk(facts, clean)
    assert isinstance(result, Facts)
    return result


def without_places(value: Any) -> Any:
    """Plain data whose texts name no path of a machine, no remote and no address; its keys stay."""
    if isinstance(value, str):
        return _without_forms(value)
    if isinstance(value, Mapping):
        return {key: without_places(below) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(without_places(below) for below in value)
    return value


def _without_forms(text: str) -> str:
    for form in _FORMS:
        text = form.sub(GONE, text)
    return text


def _own_names() -> Iterator[str]:
    """This machine's: a report is usually made where the run was."""
    names = [socket.gethostname(), socket.gethostname().split(".")[0], str(Path.home())]
    with contextlib.suppress(OSError, KeyError):
        names.append(getpass.getuser())
    yield from (name for name in names if len(name) >= 2)


def _secrets(facts: Facts) -> Iterator[str]:
    sources = [facts.provenance, *(target.device for target in facts.targets)]
    for source in sources:
        yield from (text for text in _below_telling(source, False) if len(text) >= _SHORTEST_SECRET)


def _below_telling(value: Any, telling: bool) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from _below_telling(below, telling or _tells(key))
    elif isinstance(value, list | tuple):
        for below in value:
            yield from _below_telling(below, telling)
    elif telling and isinstance(value, str):
        yield value


def _tells(key: object) -> bool:
    return bool(_TELLING.search(str(key)))


def _walk(value: Any, clean: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return clean(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [one.name for one in dataclasses.fields(value) if one.name not in _WORDS]
        return dataclasses.replace(value, **{name: _walk(getattr(value, name), clean) for name in names})
    if isinstance(value, Mapping):
        return {_key(k, v, clean): GONE if _hides(k, v) else _walk(v, clean) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_walk(one, clean) for one in value)
    return value


def _hides(key: object, value: object) -> bool:
    """Whether a value goes for its key's sake; our own numbers (`host_agreement`) tell of nobody."""
    return _tells(key) and bool(value) and not dataclasses.is_dataclass(value)


def _key(key: object, value: object, clean: Callable[[str], str]) -> str:
    """Keys of our own tables (of numbers) stay; those of free-form facts may tell something."""
    return str(key) if dataclasses.is_dataclass(value) else clean(str(key))
