"""Networks split into a trunk and branches: same answers, own weights, and back into the plain network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.core.errors import UsageError
from edgekd.core.spec import NetworkSpec
from edgekd.distill.branches import as_plain_network, branch_tap, branched, split_point
from edgekd.distill.method import Roster
from edgekd.distill.participant import Participant
from edgekd.networks.catalogue import build
from edgekd.networks.tap import Tap, taps_of
from edgekd.testing.tiny_networks import IMAGE_SHAPE, NUM_CLASSES, tiny_participant

NETWORKS = {
    "tiny": None,
    "resnet_cifar": {"depth": 8, "base_channels": 8},
    "wrn": {"depth": 10, "width": 1.0, "dropout": 0.2},
    "mobilenet_v2": {"width": 0.25, "depth": 0.25, "last_channels": 32},
    "mobilenet_v3": {"width": 0.25, "depth": 0.5, "hidden": 16},
}
SMALL = (3, 16, 16)


def participant(name: str) -> Participant:
    args = NETWORKS[name]
    if args is None:
        return tiny_participant()
    module = build(NetworkSpec(name=name, args=args, num_classes=NUM_CLASSES, in_channels=3))
    return Participant(module, taps=taps_of(module))


def images(number: int = 2) -> Tensor:
    return torch.rand(number, *SMALL, generator=torch.Generator().manual_seed(0))


def last_stage_but_one(network: Participant) -> str:
    return split_point(Roster(student_taps=tuple(network.taps)), None)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("tap", [None, "stage1", "embedding"])
def test_branch_one_is_the_network_at_every_tap(name: str, tap: str | None) -> None:
    plain = participant(name)
    split = branched(plain.copy(), tap or last_stage_but_one(plain), 3)
    plain.module.eval()
    split.module.eval()
    taps = ("logits", *(tap for tap in plain.taps if tap != "logits"))
    expected, actual = plain.run(images(), taps), split.run(images(), (*taps, branch_tap(1)))
    for key in taps:
        assert torch.equal(actual[key], expected[key]), key
    assert torch.equal(actual[branch_tap(1)], expected["logits"])


@pytest.mark.parametrize("name", NETWORKS)
def test_trunk_and_branch_one_load_strictly_into_the_plain_network(name: str) -> None:
    plain = participant(name)
    split = branched(plain.copy(), last_stage_but_one(plain), 2)
    for parameter in split.module.parameters():
        nn.init.uniform_(parameter)
    plain.module.load_state_dict(as_plain_network(split.module.state_dict()), strict=True)
    plain.module.eval()
    split.module.eval()
    assert torch.equal(plain.run(images(), ("logits",))["logits"], split.run(images(), ("logits",))["logits"])


@pytest.mark.parametrize("name", NETWORKS)
def test_gradient_of_a_branch_reaches_itself_and_the_trunk_alone(name: str) -> None:
    plain = participant(name)
    split = branched(plain, last_stage_but_one(plain), 3)
    split.run(images(4), (branch_tap(2),))[branch_tap(2)].pow(2).sum().backward()  # type: ignore[no-untyped-call]
    reached = {key.split(".")[0] for key, p in split.module.named_parameters() if p.grad is not None}
    assert reached == {"trunk", "branch2"}


def test_branches_start_with_weights_of_their_own() -> None:
    plain = tiny_participant()
    split = branched(plain.copy(), "stage2", 3).module
    branches = [split.get_submodule(f"branch{number}").state_dict() for number in (1, 2, 3)]
    assert torch.equal(branches[0]["stages.2.0.weight"], plain.module.state_dict()["stages.2.0.weight"])
    for key in ("stages.2.0.weight", "linear.weight", "linear.bias"):
        assert len({tuple(branch[key].flatten().tolist()) for branch in branches}) == 3, key
    assert all(torch.equal(branch["stages.2.1.weight"], torch.ones(8)) for branch in branches)


def test_weights_of_branches_come_from_torchs_stream() -> None:
    def weights(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return branched(tiny_participant(), "stage2", 2).module.get_parameter("branch2.linear.weight")

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_every_branch_has_the_taps_behind_the_split() -> None:
    split = branched(tiny_participant(), "stage2", 2)
    own = {"stage3", "stage3:pre", "embedding", "logits"}
    assert set(split.taps) == {"stage1", "stage1:pre", "stage2", "stage2:pre", *own} | {
        branch_tap(number, tap) for number in (1, 2) for tap in own
    }
    values = split.run(torch.rand(2, *IMAGE_SHAPE), (branch_tap(2, "embedding"), branch_tap(2), "embedding"))
    assert not torch.equal(values[branch_tap(2, "embedding")], values["embedding"])


def test_a_copy_shares_nothing() -> None:
    split = branched(tiny_participant(), "stage2", 2)
    duplicate = split.copy()
    nn.init.zeros_(duplicate.module.get_parameter("branch2.linear.weight"))
    nn.init.zeros_(duplicate.module.get_parameter("trunk.stages.0.0.weight"))
    assert bool(split.module.get_parameter("branch2.linear.weight").any())
    assert bool(split.module.get_parameter("trunk.stages.0.0.weight").any())


def test_the_mode_of_training_reaches_every_piece() -> None:
    split = branched(tiny_participant(), "stage2", 2).module
    assert all(module.training for module in split.modules())
    assert not any(module.training for module in split.eval().modules())


# ---- Networks of other people --------------------------------------------------------------------


class Plain(nn.Module):
    """Two convolutions around the tap `middle`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.scale = nn.Parameter(torch.rand(4, 1, 1))
        self.linear = nn.Linear(4, NUM_CLASSES)
        self.taps = {"middle": Tap("act"), "embedding": Tap("linear", "input"), "logits": Tap("linear")}

    def head(self, features: Tensor) -> Tensor:
        logits: Tensor = self.linear(features.mean(dim=(2, 3)))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.act(self.first(x)) * self.scale))


class Bypassed(Plain):
    def forward(self, x: Tensor) -> Tensor:
        before = self.first(x)
        return self.head(self.second(self.act(before)) + before)


class Shared(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.act(self.second(self.first(x)))))


class Unused(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.first(x)))


class Undecided(Plain):
    def forward(self, x: Tensor) -> Tensor:
        features = self.act(self.first(x))
        return self.head(self.second(features) if features.sum() > 0 else features)


class Twice(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.second(self.act(self.first(x)))) * self.scale)


class Dropping(Plain):
    """A dropout that is a function, so that a trace freezes whether it drops."""

    def forward(self, x: Tensor) -> Tensor:
        features = self.act(self.first(x)) * self.scale
        return self.head(self.second(F.dropout(features, 0.5, training=self.training)))


def of(module: Plain) -> Participant:
    return Participant(module, taps=module.taps)


def test_loose_parameters_belong_to_the_piece_that_uses_them() -> None:
    split = branched(of(Plain()), "middle", 2)
    keys = {key for key, _ in split.module.named_parameters() if key.endswith("scale")}
    assert keys == {"branch1.scale", "branch2.scale"}
    Plain().load_state_dict(as_plain_network(split.module.state_dict()), strict=True)


def test_a_functional_dropout_drops_in_the_branches() -> None:
    split = branched(of(Dropping()), "middle", 2)
    first, second = (split.run(images(), ("logits",))["logits"] for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Bypassed, "cannot branch at `middle`: `first` bypasses it"),
        (Shared, r"`second\.bias` is used before and behind the tap `middle`"),
        (Unused, r"forward pass of Unused never uses `scale`"),
        (Undecided, "Undecided cannot be traced"),
        (Twice, "`act`, which the traced network runs 2 times"),
    ],
)
def test_networks_that_cannot_branch_are_refused_with_the_reason(module: type[Plain], message: str) -> None:
    with pytest.raises(UsageError, match=rf"(?s){message}.*fix: "):
        branched(of(module()), "middle", 2)


def test_a_tap_that_is_not_there_lists_the_taps() -> None:
    with pytest.raises(UsageError, match=r"(?s)`stage9` is not a tap.*choices: .*stage1"):
        branched(tiny_participant(), "stage9", 2)


def test_nothing_follows_the_logits() -> None:
    with pytest.raises(UsageError, match="nothing with weights follows the tap `logits`"):
        branched(tiny_participant(), "logits", 2)


def test_the_default_split_is_behind_the_last_stage_but_one() -> None:
    assert split_point(Roster(student_taps=("stage2", "logits", "stage1", "stage10")), None) == "stage2"
    assert split_point(Roster(student_taps=("middle",)), "middle") == "middle"


def test_a_single_stage_needs_the_tap_to_be_named() -> None:
    with pytest.raises(UsageError, match="last stage but one, and it has one stage"):
        split_point(Roster(student_taps=("stage1", "logits")), None)


def test_a_network_whose_taps_were_found_by_tracing_can_branch_too() -> None:
    from edgekd.networks.traced import traced

    plain = of(Plain())
    network = replace(plain, module=traced(plain.module, (3, 16, 16)))
    split = branched(network.copy(), "middle", 2)
    network.module.eval()
    split.module.eval()
    expected, actual = (each.run(images(), ("logits",))["logits"] for each in (network, split))
    assert torch.equal(actual, expected)
