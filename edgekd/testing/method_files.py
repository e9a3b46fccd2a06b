"""Checks of the contract: what goes through files, checkpoints and the deployed model."""

from __future__ import annotations

import io
import itertools
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from edgekd.networks.model import portable
from edgekd.testing.fresh_process import fresh_process
from edgekd.testing.tiny_networks import TinyNet, tiny_images
from edgekd.testing.tiny_runs import STEPS_PER_EPOCH, Step, engine_of, steps, train


def training_resumes_bit_for_bit(name: str) -> None:
    """Stopped inside every phase and between every two, saved as checkpoints are, and continued by others."""
    whole = engine_of(name)
    num_steps = max(6, 3 * len(whole.program.phases))
    history, states = [], [whole.state()]
    for step in steps(whole, num_steps):
        history.append(step)
        states.append(whole.state())
    for begin, end in itertools.pairwise([*_cuts(history), num_steps]):
        other = engine_of(name)
        torch.manual_seed(begin)
        other.load_state(_through_a_file(states[begin]))
        assert train(other, num_steps, begin=begin, end=end) == history[begin:end], (
            f"other values after resuming at step {begin} in phase {history[begin].phase + 1}"
        )
        _assert_equal(other.state(), states[end], f"resumed at step {begin}")


def _cuts(history: list[Step]) -> Iterator[int]:
    """Numbers of updates made: one of each phase, then all of it; and some after the first evaluation."""
    for number, (step, following) in enumerate(itertools.pairwise(history), 1):
        begun = number == 1 or history[number - 2].phase != step.phase
        if begun or following.phase != step.phase or number == STEPS_PER_EPOCH + 1:
            yield number


def _through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    """Written and read as checkpoints are."""
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    loaded: dict[str, Any] = torch.load(stream, weights_only=True)
    return loaded


def _assert_equal(one: Any, other: Any, where: str) -> None:
    if isinstance(one, Tensor):
        assert torch.equal(one, other), f"{where} differs"
    elif isinstance(one, Mapping):
        assert one.keys() == other.keys(), f"{where}: {set(one) ^ set(other)}"
        for key in one:
            _assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        for number, (left, right) in enumerate(zip(one, other, strict=True)):
            _assert_equal(left, right, f"{where}[{number}]")
    else:
        assert one == other, f"{where}: {one} and {other}"


def deployed_model_reloads_elsewhere(name: str) -> None:
    """The deployed weights are the plain network's, no more; a fresh process gives the same logits."""
    engine = engine_of(name)
    train(engine, max(4, len(engine.program.phases)))
    network = engine.deployed()
    assert type(network) is TinyNet, f"deployed is a {type(network).__name__}"
    plain = TinyNet(network.width).state_dict().keys()
    assert network.state_dict().keys() == plain, "roles, hooks or adapters are left in the deployed weights"
    with tempfile.TemporaryDirectory() as folder:
        weights, inputs, outputs = (Path(folder) / file for file in ("w.safetensors", "x.npy", "y.npy"))
        safetensors.torch.save_file(portable(network.state_dict()), weights)
        images = tiny_images(8, seed=9)[0]
        np.save(inputs, images.numpy())
        fresh_process().write_logits(network.width, weights, inputs, outputs)
        with torch.no_grad():
            expected = network(images).numpy()
        assert np.array_equal(np.load(outputs, allow_pickle=False), expected), "other logits after reloading"
