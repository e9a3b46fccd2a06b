"""Taps: collecting, renaming, and errors that list the legal ones."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import fx

from edgekd.core.errors import ModelError
from edgekd.networks.resnet_cifar import resnet_cifar
from edgekd.networks.tap import Tap, TapRecorder, classifier_of, renamed, taps_of

NETWORK = resnet_cifar(num_classes=3, in_channels=1, depth=8, width=0.25).eval()
X = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_the_recorder_collects_only_what_was_asked_for() -> None:
    with TapRecorder(NETWORK, ["stage2", "logits"]) as values:
        logits = NETWORK(X)
    assert set(values) == {"stage2", "logits"}
    assert torch.equal(values["logits"], logits)


def test_a_stage_is_the_activation_of_its_pre_tap() -> None:
    with TapRecorder(NETWORK, ["stage1", "stage1:pre"]) as values:
        NETWORK(X)
    assert torch.equal(values["stage1"], values["stage1:pre"].relu())
    assert (values["stage1:pre"] < 0).any(), "the pre tap must not be overwritten in place"


def test_recorded_values_carry_gradients() -> None:
    network = copy.deepcopy(NETWORK)
    with TapRecorder(network, ["stage1"]) as values:
        network(X)
    values["stage1"].sum().backward()
    assert network.conv1.weight.grad is not None
    assert network.linear.weight.grad is None


def test_no_hook_stays_behind() -> None:
    with TapRecorder(NETWORK, list(NETWORK.taps)) as values:
        pass
    NETWORK(X)
    assert values == {}


def test_a_traced_network_gives_the_same_values() -> None:
    graph = fx.symbolic_trace(NETWORK)
    with TapRecorder(NETWORK, list(NETWORK.taps)) as expected:
        NETWORK(X)
    with TapRecorder(graph, list(NETWORK.taps), taps=NETWORK.taps) as values:
        graph(X)
    assert all(torch.equal(values[name], expected[name]) for name in NETWORK.taps)


def test_an_unknown_tap_lists_the_legal_ones() -> None:
    with pytest.raises(ModelError, match=r"`stage9` is not a tap; close names: stage") as caught:
        TapRecorder(NETWORK, ["stage9"])
    assert "embedding" in str(caught.value)


def test_a_tap_whose_module_is_gone_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"names the module `gone`"):
        TapRecorder(NETWORK, ["stage1"], taps={"stage1": Tap("gone")})


def test_renaming_moves_taps_and_drops_those_that_are_gone() -> None:
    taps = {"a": Tap("x", "input"), "b": Tap("y"), "c": Tap("z")}
    assert renamed(taps, {"x": "new.x", "y": None}) == {"a": Tap("new.x", "input"), "c": Tap("z")}


def test_the_classifier_is_the_layer_behind_the_embedding() -> None:
    assert classifier_of(NETWORK) == "linear"


def test_a_module_without_taps_has_none_and_no_classifier() -> None:
    assert taps_of(torch.nn.Linear(1, 1)) == {}
    with pytest.raises(ModelError, match="`embedding` is not a tap"):
        classifier_of(torch.nn.Linear(1, 1))
