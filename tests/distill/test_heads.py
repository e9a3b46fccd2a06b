"""Modules that read a network's taps: their taps, their training, and the network without them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgekd.core.errors import UsageError
from edgekd.distill.heads import with_heads, without_heads
from edgekd.distill.participant import Participant
from edgekd.distill.program import Derived, Given, Head, Phase, Program, Role, Shapes, student_turn
from edgekd.networks.tap import Tap
from edgekd.testing.tiny_networks import IMAGE_SHAPE, NUM_CLASSES, tiny_participant
from tests.distill.building import differ, engine_for, task, weights


class Exit(nn.Module):
    """Features and logits -> a sum of both."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_channels, NUM_CLASSES)

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        own: Tensor = self.linear(features.mean(dim=(2, 3)))
        return own + logits


def exit_head() -> Head:
    def build(shapes: Shapes) -> nn.Module:
        return Exit(shapes["exited", "stage2"][0])

    return Head(("stage2", "logits"), build, {"pooled": Tap("linear", "input")})


def exited() -> Participant:
    return with_heads(tiny_participant(), {"exit": exit_head()}, {"exit": Exit(8)})


def program() -> Program:
    roles: dict[str, Role] = {"student": Given(), "exited": Derived("student", heads={"exit": exit_head()})}
    return Program(roles, (Phase("main", (student_turn((task("exited"),), "exited"),)),))


def test_a_head_sees_the_taps_in_its_order_and_is_a_tap_itself() -> None:
    network, images = exited(), torch.rand(2, *IMAGE_SHAPE)
    network.module.eval()
    values = network.run(images, ("stage2", "logits", "exit", "exit:pooled"))
    linear = network.module.get_submodule("heads.exit.linear")
    torch.testing.assert_close(values["exit:pooled"], values["stage2"].mean(dim=(2, 3)))
    torch.testing.assert_close(values["exit"], linear(values["exit:pooled"]) + values["logits"])


def test_the_network_answers_as_before() -> None:
    plain, network, images = tiny_participant(), exited(), torch.rand(2, *IMAGE_SHAPE)
    taps = ("stage1", "stage3:pre", "embedding", "logits")
    expected, actual = plain.run(images, taps), network.run(images, taps)
    assert all(torch.equal(actual[tap], expected[tap]) for tap in taps)


def test_without_its_heads_the_state_is_the_networks() -> None:
    plain = tiny_participant()
    state = without_heads(exited().module.state_dict())
    assert list(state) == list(plain.module.state_dict())
    plain.module.load_state_dict(dict(state), strict=True)


def test_the_pass_ends_at_the_last_tap_that_is_read() -> None:
    network = exited()
    network.run(torch.rand(2, *IMAGE_SHAPE), ("stage1",))
    untouched = network.module.get_submodule("network.stages.1.1")
    assert isinstance(untouched, nn.BatchNorm2d)
    assert int(untouched.num_batches_tracked) == 0  # type: ignore[arg-type]


def test_a_head_is_built_from_shapes_with_weights_of_its_own_stream() -> None:
    first, second, other = engine_for(program()), engine_for(program()), engine_for(program(), seed=1)
    key = "heads.exit.linear.weight"
    assert weights(first, "exited")[key].shape == (NUM_CLASSES, 8)
    assert differ(weights(first, "exited"), weights(second, "exited")) == set()
    assert not torch.equal(weights(first, "exited")[key], weights(other, "exited")[key])
    student = without_heads(weights(first, "exited"))
    assert differ(dict(student), weights(first, "student")) == set()


def test_a_head_on_a_tap_that_is_not_there_is_refused() -> None:
    head = Head(("stage9",), lambda shapes: nn.Identity())
    with pytest.raises(UsageError, match=r"(?s)`stage9` is not a tap.*choices: .*stage1"):
        with_heads(tiny_participant(), {"exit": head}, {"exit": nn.Identity()})


def test_a_value_overwritten_in_place_behind_the_tap_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(3, NUM_CLASSES, 1), nn.ReLU(inplace=True), nn.Flatten())
    plain = Participant(network, taps={"raw": Tap("0")})
    headed = with_heads(plain, {"exit": Head(("raw",), lambda s: nn.Identity())}, {"exit": nn.Identity()})
    with pytest.raises(UsageError, match="`raw` was overwritten by an in-place operation"):
        headed.run(torch.rand(2, *IMAGE_SHAPE), ("logits",))


def test_a_copy_has_heads_of_its_own() -> None:
    network = exited()
    duplicate = network.copy()
    nn.init.zeros_(duplicate.module.get_parameter("heads.exit.linear.weight"))
    assert bool(network.module.get_parameter("heads.exit.linear.weight").any())
    images = torch.rand(2, *IMAGE_SHAPE)
    network.module.eval()
    duplicate.module.eval()
    assert not torch.equal(network.run(images, ("exit",))["exit"], duplicate.run(images, ("exit",))["exit"])
