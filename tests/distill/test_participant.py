"""Running a network for its taps: strict, no further than needed, on traced networks too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, fx, nn

from edgekd.core.errors import UsageError
from edgekd.core.preprocess import Preprocess
from edgekd.core.spec import ModelSpec, NetworkSpec
from edgekd.distill.compose import build_program
from edgekd.distill.participant import Participant
from edgekd.distill.settings import DistillSettings
from edgekd.networks.model import build_model
from edgekd.networks.tap import Tap
from edgekd.testing.tiny_networks import LABELS, tiny_images, tiny_participant
from tests.distill.building import differ, engine_for, train, weights

IMAGES, _ = tiny_images(4)


class Small(nn.Module):
    """One ReLU, in place or used twice on demand."""

    def __init__(self, *, inplace: bool = False, twice: bool = False, skip: bool = False) -> None:
        super().__init__()
        self.first, self.relu, self.last = nn.Conv2d(3, 3, 1), nn.ReLU(inplace), nn.Linear(3, 4)
        self.twice, self.skip = twice, skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if not self.skip:
            x = self.relu(x)
        return self.last((self.relu(x) if self.twice else x).mean((2, 3)))


TAPS = {"a": Tap("relu"), "a:pre": Tap("relu", "input"), "conv": Tap("first")}


def test_the_input_of_an_in_place_activation_is_what_came_in() -> None:
    plain = Participant(Small(), taps=TAPS)
    in_place = Participant(Small(inplace=True), taps=TAPS)
    in_place.module.load_state_dict(plain.module.state_dict())
    values = [p.run(IMAGES, ("a:pre", "logits"))["a:pre"] for p in (plain, in_place)]
    assert values[0].equal(values[1]) and bool((values[0] < 0).any())


@pytest.mark.parametrize(
    ("network", "taps", "message"),
    [
        (lambda: Small(inplace=True), ("conv", "logits"), "`conv` was overwritten"),
        (lambda: Small(twice=True), ("a", "logits"), "`a` runs more than once"),
        (lambda: Small(skip=True), ("a", "logits"), "never ran the module at tap `a`"),
        (Small, ("b",), "`b` is not a tap"),
    ],
)
def test_a_tap_that_lies_is_refused(
    network: Callable[[], nn.Module], taps: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Participant(network(), taps=TAPS).run(IMAGES, taps)


def test_a_run_ends_at_the_last_tap_it_needs() -> None:
    participant = tiny_participant()
    before = {key: value.clone() for key, value in participant.module.state_dict().items()}
    participant.run(IMAGES, ("stage1",))
    changed = differ(before, participant.module.state_dict())
    assert changed and all(key.startswith("stages.0") for key in changed)


def test_no_hook_stays_behind() -> None:
    participant = tiny_participant()
    participant.run(IMAGES, ("stage1", "stage2:pre"))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in participant.module.modules())


def test_taps_do_not_change_the_logits() -> None:
    participant = tiny_participant()
    participant.module.eval()
    with_taps = participant.run(IMAGES, ("stage1", "stage3:pre", "logits"))["logits"]
    assert with_taps.equal(participant.module(participant.normalize(IMAGES)))


def test_reduced_precision_comes_back_as_float32_and_float64_stays() -> None:
    participant = tiny_participant()
    values = participant.run(IMAGES, ("stage1", "logits"), torch.autocast("cpu", torch.bfloat16))
    assert {value.dtype for value in values.values()} == {torch.float32}
    participant.module.double()
    assert participant.run(IMAGES.double(), ("logits",))["logits"].dtype == torch.float64


def test_a_model_brings_its_preprocessing_taps_and_labels() -> None:
    network = NetworkSpec(name="resnet_cifar", args={"depth": 8, "width": 0.25}, num_classes=4, in_channels=3)
    preprocess = Preprocess(size=(16, 16), mean=(0.5,) * 3, std=(0.25,) * 3)
    model = build_model(ModelSpec(network=network, preprocess=preprocess, labels=LABELS))
    participant = Participant.of(model)
    values = participant.run(IMAGES, ("stage1", "logits"))
    assert values["stage1"].shape == (4, 4, 16, 16) and participant.labels == LABELS


@pytest.mark.parametrize("method", ["kd", "at", "fitnets"])
def test_a_traced_student_is_trained_by_the_same_program(method: str) -> None:
    """Quantization hands over `fx.GraphModule`s."""
    plain, student = tiny_participant(), tiny_participant()
    traced = fx.symbolic_trace(student.module)
    program = build_program(
        DistillSettings(method=method),  # type: ignore[arg-type]
        num_teachers=1,
        student_taps=tuple(student.taps),
        teacher_taps=[tuple(student.taps)],
    )
    engines = [engine_for(program, student=s) for s in (plain, replace(student, module=traced))]
    assert train(engines[0], 8) == train(engines[1], 8)
    assert differ(weights(engines[0], "student"), weights(engines[1], "student")) == set()
    assert isinstance(engines[1].deployed(), fx.GraphModule)
