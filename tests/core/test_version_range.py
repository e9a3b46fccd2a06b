"""Versions as libraries tell their own, against ranges as pip writes them."""

from __future__ import annotations

import pytest

from edgekd.core.version_range import in_range


@pytest.mark.parametrize(
    ("found", "range_", "expected"),
    [
        ("1.12.1", ">=1.18,<2", False),
        ("1.18.0", ">=1.18,<2", True),
        ("1.32.0", ">=1.18,<2", True),
        ("2.0.0", ">=1.18,<2", False),
        ("2.0.0rc1", ">=1.18,<2", False),
        ("2.9.0a0+nv25.6", ">=2.9,<3", True),
        ("2.14.1+cpu", ">=2.9,<3", True),
        ("1.33.0.dev20261001", ">=1.18,<2", True),
        ("2026.4.1-21300-7c2f1d0-releases/2026/4", ">=2026.4,<2027", True),
        ("2025.3.0-19807-44526285f24-releases/2025/3", ">=2026.4,<2027", False),
        ("1.0.20261020", ">=1.0.20261020,<1.0.20270000", True),
        ("not a version", ">=1", False),
        ("anything", "", False),
        ("1.0", "", True),
    ],
)
def test_a_build_counts_as_its_release(found: str, range_: str, expected: bool) -> None:
    assert in_range(found, range_) == expected
