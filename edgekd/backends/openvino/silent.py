"""OpenVINO without its telemetry: `from edgekd.backends.openvino.silent import openvino`.

`import openvino` itself, and every conversion, otherwise reports to Google Analytics, from a process forked
for it, unless a file in the user's home says no or the environment says that it is a CI job. The package
that sends is an optional import of OpenVINO's, so one that cannot be imported cannot send.
"""

from __future__ import annotations

import sys
from types import ModuleType

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino  # noqa: E402
from openvino.tools.ovc import telemetry_stub  # noqa: E402

_CONVERTER = "openvino.tools.ovc"


def _silence(modules: dict[str, ModuleType]) -> None:
    """Take the sender from a converter that somebody else had imported before, with telemetry."""
    for name, module in list(modules.items()):
        if name.startswith(_CONVERTER) and hasattr(module, "tm"):
            vars(module)["tm"] = telemetry_stub


_silence(sys.modules)

__all__ = ["openvino"]
