"""A device at the other end of a transport: one folder there a session, and nothing of it afterwards."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import field_validator

from edgekd.core.digest import of_file
from edgekd.core.errors import TargetError
from edgekd.targets.keeping import KeeperLink
from edgekd.targets.target import Finished, Session, Target
from edgekd.targets.transport import Transport

STALL_S = 120.0
"""How long a transfer may show no progress: what is on its way in buffers cannot be seen."""
_SMALL_BYTES = 1 << 20
"""Up to here a file goes through the keeper: a command of its own would cost a login shell's start."""
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(kB|KB|MB|GB)")
_UNITS = {"kB": 1000, "KB": 1000, "MB": 1000**2, "GB": 1000**3}


class RemoteTarget(Target):
    """What every device that is reached by a transport can be told; a subclass says by which."""

    python: str = "python3"
    """The Python there that has NumPy and the runtime; `~/` is the home folder there."""
    cache: str | None = None
    """How much may be kept there between sessions, as `200MB`; None: nothing."""

    @field_validator("python")
    @classmethod
    def _one_program(cls, python: str) -> str:
        if not python or python.startswith("-") or any(c in python for c in "\n\r\0"):
            raise ValueError("python is the path of one program on the device")
        return python

    @field_validator("cache")
    @classmethod
    def _size(cls, cache: str | None) -> str | None:
        if cache is not None and not _SIZE.fullmatch(cache.strip()):
            raise ValueError("cache is a size, as `200MB`")
        return cache

    @property
    def cache_bytes(self) -> int:
        match = None if self.cache is None else _SIZE.fullmatch(self.cache.strip())
        return 0 if match is None else int(Decimal(match[1]) * _UNITS[match[2]])

    def facts(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude={"cache"})

    def transport(self) -> Transport:
        """The way to the device, not yet gone. Raises `TargetError` where its address is not known."""
        raise NotImplementedError(f"{type(self).__name__} has no transport")

    @contextmanager
    def session(self) -> Iterator[Session]:
        with self.open() as session:
            yield session

    @contextmanager
    def open(self, *, lease: bool = True) -> Iterator[RemoteSession]:
        """A session; without `lease` it neither waits for others nor keeps them out. Raises `TargetError`."""
        with closing(self.transport()) as transport:
            link = KeeperLink(transport, self.python, lease=lease, cache_bytes=self.cache_bytes)
            try:
                yield RemoteSession(self, transport, link, link.ready())
            finally:
                link.end()


class RemoteSession(Session):
    """A folder on the device, which its keeper removes when we hang up or are no longer heard."""

    def __init__(
        self, target: RemoteTarget, transport: Transport, link: KeeperLink, about: Mapping[str, Any]
    ) -> None:
        self.target = target.name
        self.about = about
        """What the keeper says: folder, home, python, machine, free_bytes, queue, orphans."""
        self.folder = str(about["folder"])
        self.python = (_at_home(target.python, str(about["home"])), "-B")
        self._transport, self._link, self._caches = transport, link, target.cache_bytes > 0

    def push(self, local: Path, name: str | None = None) -> str:
        name = self._plain(name or local.name)
        self._link.check()
        try:
            if local.stat().st_size <= _SMALL_BYTES:
                self._link.write(name, local.read_bytes())
                return name
            digest = of_file(local) if self._caches else None
        except OSError as error:
            raise TargetError(f"cannot push {local}: {error.strerror}", where=self.target) from error
        if digest is None or not self._link.ask("link", sha256=digest, name=name)["hit"]:
            self._transport.put(local, self._there(name), timeout_s=STALL_S)
            if digest is not None:
                self._link.ask("keep", sha256=digest, name=name)
        return name

    def pull(self, remote: str, local: Path) -> None:
        self._link.check()
        content = self._link.read(remote, _SMALL_BYTES)
        if content is None:
            self._transport.get(self._there(remote), local, timeout_s=STALL_S)
        else:
            local.write_bytes(content)

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout_s: float,
        env: Mapping[str, str] | None = None,
    ) -> Finished:
        self._link.check()
        return self._link.run(argv, stdin=stdin, timeout_s=timeout_s, env=env or {})

    def free_bytes(self) -> int:
        """Free space where the session's folder is."""
        return int(self._link.ask("free")["free_bytes"])

    def _there(self, name: str) -> str:
        return f"{self.folder}/{name}"

    def _plain(self, name: str) -> str:
        if Path(name).name != name or name.startswith("."):
            raise TargetError(f"`{name}` cannot name a file in a session's folder", where=self.target)
        return name


def _at_home(path: str, home: str) -> str:
    return f"{home}/{path[2:]}" if path.startswith("~/") else path
