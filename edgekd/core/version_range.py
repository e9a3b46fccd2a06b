"""Whether a version, as a library tells its own, is in a range of PEP 440."""

from __future__ import annotations

import re

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

_RELEASE = re.compile(r"\d+(\.\d+)*")


def in_range(found: str, specifiers: str) -> bool:
    """A build before or after a release, or of somebody else, counts as that release (`2.9.0a0+nv25.6`)."""
    try:
        release = Version(found).base_version
    except InvalidVersion:  # as OpenVINO's `2026.4.1-21300-7c2f1d0-releases/2026/4`
        match = _RELEASE.match(found)
        if match is None:
            return False
        release = match[0]
    return SpecifierSet(specifiers).contains(release)
