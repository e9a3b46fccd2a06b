"""A flatbuffer as ExecuTorch writes it, read without ever leaving the file; Python 3.8 and newer.

Pushed to devices: imports nothing of edgekd.
"""

from __future__ import annotations

import struct
from typing import Any

_LARGEST_COUNT = 1 << 20


class ArtifactError(Exception):
    """The file is not a program that may be run here."""


class Bytes:
    """A flatbuffer: `length` bytes from `start` on, never read outside."""

    def __init__(self, data: Any, start: int, length: int) -> None:
        self.data, self.start, self.length = data, start, length

    def read(self, form: str, at: int) -> int:
        if at < 0 or at + struct.calcsize(form) > self.length:
            raise ArtifactError(f"not a whole program: byte {at} is outside of {self.length}")
        value: int = struct.unpack_from("<" + form, self.data, self.start + at)[0]
        return value

    def root(self) -> Table:
        return Table(self, self.read("I", 0))

    def follow(self, at: int) -> int:
        return at + self.read("I", at)


class Table:
    """A table of a flatbuffer; fields by their number in the schema, an absent one reads as 0 or empty."""

    def __init__(self, file: Bytes, at: int) -> None:
        self.file, self.at = file, at
        self._fields = at - file.read("i", at)
        self._size = file.read("H", self._fields)

    def _place(self, field: int) -> int | None:
        slot = 4 + 2 * field
        offset = self.file.read("H", self._fields + slot) if slot + 2 <= self._size else 0
        return self.at + offset if offset else None

    def number(self, field: int, form: str) -> int:
        place = self._place(field)
        return 0 if place is None else self.file.read(form, place)

    def table(self, field: int) -> Table:
        place = self._place(field)
        if place is None:
            raise ArtifactError(
                f"not a whole program: field {field} of the table at byte {self.at} is missing"
            )
        return Table(self.file, self.file.follow(place))

    def union(self, field: int) -> tuple[int, Table]:
        """(kind, table); the value's field follows the one of the kind."""
        return self.number(field, "B"), self.table(field + 1)

    def place(self, field: int, item_bytes: int = 1) -> tuple[int, int]:
        """(start in the file, bytes) of a vector's items."""
        place = self._place(field)
        if place is None:
            return self.file.start, 0
        vector = self.file.follow(place)
        count = self.file.read("I", vector) * item_bytes
        if vector + 4 + count > self.file.length:
            raise ArtifactError(f"not a whole program: a list at byte {vector} goes beyond its end")
        return self.file.start + vector + 4, count

    def numbers(self, field: int, form: str) -> list[int]:
        start, size = self.place(field, struct.calcsize(form))
        count = size // struct.calcsize(form)
        if count > _LARGEST_COUNT:
            raise ArtifactError(f"a list of {count} numbers is too long")
        return list(struct.unpack_from(f"<{count}{form}", self.file.data, start))

    def tables(self, field: int) -> list[Table]:
        start, size = self.place(field, 4)
        if size // 4 > _LARGEST_COUNT:
            raise ArtifactError(f"a list of {size // 4} tables is too long")
        places = range(start - self.file.start, start - self.file.start + size, 4)
        return [Table(self.file, self.file.follow(place)) for place in places]

    def text(self, field: int) -> str:
        start, size = self.place(field)
        return bytes(self.file.data[start : start + size]).decode("utf-8", "replace")
