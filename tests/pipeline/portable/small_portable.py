"""The small run made portable, and measured on two targets that are this machine under two names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgekd.core.digest import of_bytes
from edgekd.pipeline.portable.folder import PortableRun, find_portable
from edgekd.pipeline.portable.packing import pack
from edgekd.store.store import Store
from tests.pipeline.small_run import make_run

GATE: dict[str, Any] = {
    "accuracy_drop": [{"max": "90pt", "against": "teacher"}],
    "host_agreement": [{"min": "50%"}],
    "size": [{"max": "1MB"}],
}
DEVICES = "pi5: {kind: local}\n"
OUT_OF_REACH = """
pi5:
  kind: ssh
  host_key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICvC6CjOgNxfwIb5sXOTCpGBssKIN8DrKyJfl4bQOefg
  fingerprint: SHA256:KHaG8drS4DE5OIfyljXdrH4EuJUJXLINeFq4uDy2u0w
"""
"""Described, as in a project that is checked out, but this machine does not know its address."""


def silent(event: Mapping[str, Any]) -> None:
    pass


def made(folder: Path, gate: dict[str, Any] = GATE) -> PortableRun:
    """`folder`/out, from a store that is gone then."""
    store = Store(folder / "trained")
    portable = pack(
        make_run(store, folder, gate=gate, targets=["local", "pi5"]), folder / "out", store, silent
    )
    shutil.rmtree(store.root)
    return portable


def opened(folder: Path) -> PortableRun:
    found = find_portable(folder)
    assert found is not None
    return found


def rewritten(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """A sealed list changed by somebody who makes a new seal as well."""
    content = json.loads(path.read_text())
    change(content)
    text = json.dumps(content)
    path.write_text(text)
    path.with_suffix(".sha256").write_text(f"{of_bytes(text.encode())}  {path.name}\n")
