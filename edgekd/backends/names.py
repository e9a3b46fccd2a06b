"""A backend, its options and a placement of quantizers, as recipes name them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, ValidationError

from edgekd.backends.backend import Backend
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
BackendOrAuto = Annotated[str, AfterValidator(_known_to(BACKENDS, AUTO))]
"""Of one step, or `auto`: the one that ships."""
ProfileName = Annotated[str, AfterValidator(_known_to(PROFILES, AUTO))]
"""Of a placement, or `auto`: that of the backend that ships."""


def checked_options(backend: Backend, written: Mapping[str, Any]) -> dict[str, Any]:
    """What is written of a backend's options, the others with their defaults.

    Raises `ValueError` that names what does not exist or is of the wrong kind, and the options there are.
    """
    try:
        return backend.options.model_validate(written).model_dump()
    except ValidationError as error:
        problems = [f"`{problem['loc'][0]}`: {problem['msg']}" for problem in error.errors()]
        legal = ", ".join(backend.options.model_fields) or "none"
        raise ValueError(f"{backend.name}: {'; '.join(problems)}; its options: {legal}") from None
