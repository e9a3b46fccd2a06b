"""A backend as recipes name it."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from edgekd.backends.catalogue import BACKENDS
from edgekd.core.errors import UsageError


def _known(name: str) -> str:
    try:
        BACKENDS.entry(name)
    except UsageError as error:
        raise ValueError(str(error)) from None
    return name


BackendName = Annotated[str, AfterValidator(_known)]
