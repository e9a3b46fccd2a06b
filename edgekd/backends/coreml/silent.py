"""Core ML's tools without their remarks: `from edgekd.backends.coreml.silent import coremltools, quiet`.

Importing it logs which versions of other packages it was not tested with (torch 2.14 among them) and which of
its parts are for macOS only, and a conversion draws progress bars. It reports nothing to anyone: coremltools
9.0 has no telemetry.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_NOISY_LOGGERS = ("coremltools", "torch.export", "torch.fx", "torch.utils._pytree")


@contextmanager
def quiet() -> Iterator[None]:
    """Without log messages below errors, warnings, and what is drawn on standard error meanwhile."""
    levels = [(logging.getLogger(name), logging.getLogger(name).level) for name in _NOISY_LOGGERS]
    for logger, _ in levels:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in levels:
            logger.setLevel(level)


_VARIABLE = "TF_CPP_MIN_LOG_LEVEL"  # which coremltools sets when it is imported, for TensorFlow
_before = os.environ.get(_VARIABLE)
with quiet():
    import coremltools
if _before is None:
    os.environ.pop(_VARIABLE, None)

__all__ = ["coremltools", "quiet"]
