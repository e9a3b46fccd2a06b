"""A backend, and a placement of quantizers, as recipes name them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator

from edgekd.backends.catalogue import BACKENDS
from edgekd.backends.profile import PROFILES
from edgekd.core.errors import UsageError
from edgekd.core.registry import Registry


def _known_to(registry: Registry[Any], *words: str) -> Callable[[str], str]:
    def check(name: str) -> str:
        try:
            return name if name in words else registry.entry(name).name
        except UsageError as error:
            raise ValueError(str(error)) from None

    return check


AUTO = "auto"
BackendName = Annotated[str, AfterValidator(_known_to(BACKENDS))]
ProfileName = Annotated[str, AfterValidator(_known_to(PROFILES, AUTO))]
"""Of a placement, or `auto`: that of the backend that ships."""
