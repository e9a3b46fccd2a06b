"""A space lists its candidates once, in order, with sizes relative to the data or in pixels."""

from __future__ import annotations

import pytest

from edgekd.core.errors import UsageError
from edgekd.core.preprocess import Preprocess
from edgekd.search.space import Candidate, Family, Space, resized
from edgekd.search.spaces import SPACES, load_space
from tests.search.material import PREPROCESS


def listed(space: Space, preprocess: Preprocess = PREPROCESS) -> tuple[Candidate, ...]:
    return space.candidates(num_classes=10, in_channels=1, preprocess=preprocess)


def test_every_combination_appears_once_in_the_order_written() -> None:
    space = load_space({"network": "resnet_cifar", "depth": [8, 14], "width": [0.5, 1], "resolution": [16]})
    assert [candidate.id for candidate in listed(space)] == [
        "resnet_cifar-depth8-width0.5-16x16",
        "resnet_cifar-depth8-width1-16x16",
        "resnet_cifar-depth14-width0.5-16x16",
        "resnet_cifar-depth14-width1-16x16",
    ]


def test_a_candidate_carries_its_arguments_and_its_own_input_size() -> None:
    space = load_space({"network": "net", "width": [0.5], "resolution": [0.75], "args": {"shortcut": "B"}})
    (candidate,) = listed(space)
    assert candidate.spec.args == {"shortcut": "B", "width": 0.5}
    assert candidate.resolution == candidate.preprocess.size == (24, 24)
    assert candidate.preprocess.mean == PREPROCESS.mean


@pytest.mark.parametrize(
    ("resolution", "size"),
    [(1.0, (32, 64)), (0.5, (16, 32)), (24, (24, 48)), (0.01, (4, 4)), (1.25, (40, 80))],
)
def test_a_resolution_is_a_factor_up_to_4_and_else_the_height_in_pixels(
    resolution: float, size: tuple[int, int]
) -> None:
    assert resized((32, 64), resolution) == size


def test_two_factors_that_round_to_one_size_give_one_candidate() -> None:
    space = load_space({"network": "net", "resolution": [0.5, 0.49]})
    assert len(listed(space)) == 1


def test_further_axes_are_searched_like_depth_and_width() -> None:
    space = load_space({"network": "net", "axes": {"activation": ["relu", "hardswish"]}})
    assert [candidate.spec.args["activation"] for candidate in listed(space)] == ["relu", "hardswish"]


def test_families_that_differ_in_a_fixed_argument_have_other_ids() -> None:
    space = load_space([{"network": "net", "args": {"shortcut": kind}} for kind in "AB"])
    assert len({candidate.id for candidate in listed(space)}) == 2


def test_an_id_is_a_file_name_whatever_the_arguments() -> None:
    family = Family(network="../evil.py:f", axes={"a": ("x/y", [1, 2])})
    for candidate in listed(Space(families=(family,))):
        assert "/" not in candidate.id and ":" not in candidate.id


@pytest.mark.parametrize("name", SPACES.names())
def test_a_shipped_space_has_at_least_50_candidates_even_on_tiny_images(name: str) -> None:
    digits = Preprocess(size=(8, 8), mean=(0.0,), std=(1.0,))
    found = listed(load_space(name), digits)
    assert len(found) >= 50
    assert len({candidate.id for candidate in found}) == len(found)


def test_an_unknown_space_lists_the_choices() -> None:
    with pytest.raises(UsageError, match=r"close names: resnet_small(.|\n)*choices: .*zoo"):
        load_space("resnet_smal")


def test_all_problems_of_an_inline_space_are_shown_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        load_space({"network": "net", "width": [0.0], "resolution": [10.5], "depths": [8]})
    for part in ("width", "resolution", "depths", "choices"):
        assert part in str(caught.value)
