"""Which wheels fit a machine, and what pip's failures mean."""

from __future__ import annotations

import pytest

from edgekd.targets.wheels import Platform, explain

PI5 = Platform("3.11.2", "aarch64", 64, ("glibc", "2.36"))


def test_every_older_manylinux_runs_and_is_asked_for_by_both_its_names() -> None:
    tags = PI5.tags()
    assert tags[0] == "manylinux_2_36_aarch64"
    assert {"manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64"} <= set(tags)
    assert "manylinux_2_37_aarch64" not in tags
    assert "manylinux_2_16_aarch64" not in tags, "aarch64 begins with 2.17"
    assert tags[-1] == "linux_aarch64"


@pytest.mark.parametrize(
    ("platform", "tag"),
    [
        (Platform("3.11.2", "aarch64", 32, ("glibc", "2.36")), "manylinux2014_armv7l"),
        (Platform("3.11.2", "armv7l", 32, ("glibc", "2.36")), "manylinux_2_17_armv7l"),
        (Platform("3.11.2", "x86_64", 64, ("glibc", "2.36")), "manylinux1_x86_64"),
        (Platform("3.12.9", "aarch64", 64, ("", "")), "musllinux_1_2_aarch64"),
        (Platform("3.8.10", "aarch64", 64, ("glibc", "2.31")), "manylinux_2_31_aarch64"),
    ],
)
def test_the_userland_decides_not_the_kernel(platform: Platform, tag: str) -> None:
    tags = platform.tags()
    assert tag in tags
    assert all(name.endswith(platform.processor) for name in tags)


def test_nothing_of_glibc_runs_under_musl() -> None:
    assert not any("manylinux" in tag for tag in Platform("3.12.9", "aarch64", 64, ("", "")).tags())


@pytest.mark.parametrize(
    ("said", "here", "message"),
    [
        (
            "ERROR: Could not find a version that satisfies the requirement onnxruntime (from versions: )\n"
            "ERROR: No matching distribution found for onnxruntime",
            True,
            r"no wheel of `onnxruntime` for Python 3\.11 on aarch64 \(glibc 2\.36\)",
        ),
        (
            "WARNING: Retrying after broken by 'NewConnectionError(': [Errno -3] Temporary failure "
            "in name resolution')'\nERROR: No matching distribution found for numpy",
            False,
            r"the device does not reach the package index(.|\n)*--offline",
        ),
        ("/usr/bin/python3: No module named pip", True, "this machine has no pip"),
        ("OSError: [Errno 28] No space left on device", False, "disk of the device is full(.|\n)*500 MB"),
        ("ERROR: something new", False, "pip failed on the device: ERROR: something new"),
    ],
)
def test_a_failure_of_pip_says_what_helps(said: str, here: bool, message: str) -> None:
    error = explain(said, PI5, name="pi5", here=here)
    assert error.exit_code == 4
    with pytest.raises(type(error), match=message):
        raise error
