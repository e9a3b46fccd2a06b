"""Images from beside the batch: which views a program asks of whom, and training on both at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgekd.data.array_images import ArrayImages
from edgekd.data.augment import Augment
from edgekd.data.loader import Loader
from edgekd.data.split import Split
from edgekd.distill.context import TermContext
from edgekd.distill.program import LOGITS, Given, Needs, Phase, Program, Term, Train, Turn
from edgekd.distill.sources import Beside, Generated, Labeled, LoaderStream, Named, PlacedStream, Source
from edgekd.testing.tiny_networks import tiny_images
from edgekd.train.trainable import Position
from tests.distill.building import engine_for, task


def consistency(*views: str) -> Term:
    """The student's answers to all views agree."""

    def compute(context: TermContext) -> Tensor:
        first, second = (context.logits("student", view) for view in views)
        return (first - second).pow(2).mean()

    return Term("consistency:" + ",".join(views), compute, Needs({"student": (LOGITS,)}, views=views))


def program(*turns: tuple[Source, Term]) -> Program:
    made = tuple(Turn((Train("student"),), (term,), source) for source, term in turns)
    return Program({"student": Given()}, (Phase("main", made),))


@pytest.mark.parametrize(
    ("source", "term", "views", "streams"),
    [
        (Labeled(), consistency("x", "x2"), ("x", "x2"), {}),
        (Labeled(), consistency("x2", "x3"), ("x", "x2", "x3"), {}),
        (Named("unlabeled"), consistency("x", "x2"), ("x",), {"unlabeled": ("x", "x2")}),
        (Beside("unlabeled"), consistency("x2", "unlabeled:x"), ("x", "x2"), {"unlabeled": ("x",)}),
        (
            Beside("unlabeled"),
            consistency("unlabeled:x", "unlabeled:x2"),
            ("x",),
            {"unlabeled": ("x", "x2")},
        ),
        (Beside("unlabeled"), task(), ("x",), {"unlabeled": ("x",)}),
        (Generated("student", 4), consistency("x", "x"), ("x",), {}),
    ],
)
def test_a_program_asks_each_supply_for_its_own_views(
    source: Source, term: Term, views: tuple[str, ...], streams: dict[str, tuple[str, ...]]
) -> None:
    one = program((source, term))
    assert (one.views, one.streams) == (views, streams)


def test_turns_add_up_what_they_ask_for() -> None:
    one = program(
        (Labeled(), consistency("x", "x2")),
        (Beside("unlabeled"), consistency("x3", "unlabeled:x2")),
        (Named("unlabeled"), consistency("x4", "x")),
        (Named("other"), task()),
    )
    assert one.views == ("x", "x2", "x3")
    assert one.streams == {"unlabeled": ("x", "x2", "x4"), "other": ("x",)}


def loader(count: int, batch_size: int, seed: int, views: tuple[str, ...]) -> Loader:
    images, labels = tiny_images(count, seed=seed)
    pixels = np.ascontiguousarray((images * 255).round().byte().permute(0, 2, 3, 1).numpy())
    split = Split("train", ArrayImages(pixels), labels.numpy())
    augment = Augment(shift=1, brightness=0.1)
    settings: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "augment": augment, "views": views}
    return Loader(split, image_size=(8, 8), channels=3, **settings)


def test_one_update_learns_from_labeled_and_unlabeled_images_of_other_number() -> None:
    """With the loader behind both; going on after five of nine updates changes nothing."""
    turn = Turn(
        (Train("student"),), (task(), consistency("unlabeled:x", "unlabeled:x2")), Beside("unlabeled")
    )
    both = Program({"student": Given()}, (Phase("main", (turn,)),))

    def trained(begin: int, end: int, state: dict[str, Any] | None = None) -> Any:
        stream = LoaderStream(loader(20, 6, 1, both.streams["unlabeled"]))
        engine = engine_for(both, streams={"unlabeled": stream})
        if state is not None:
            engine.load_state(state)
        labeled = LoaderStream(loader(48, 16, 0, both.views))
        values = [engine.step(labeled.batch(n), Position(n, 9, n // 3, 3)) for n in range(begin, end)]
        return values, engine.state()

    values, _ = trained(0, 9)
    first, state = trained(0, 5)
    assert {"task", "consistency:unlabeled:x,unlabeled:x2"} <= values[0].keys()
    assert [*first, *trained(5, 9, state)[0]] == values


def test_batches_of_a_stream_are_placed_like_the_loops_own() -> None:
    one = PlacedStream(LoaderStream(loader(20, 6, 1, ("x", "x2"))), lambda tensor: tensor.double())
    batch = one.batch(0)
    assert {view.dtype for view in batch.views.values()} == {torch.float64}
    assert batch.labels.dtype == torch.float64
    assert one.batch(0) is batch, "outputs are cached by the batch's identity"
    assert one.batch(1) is not batch
