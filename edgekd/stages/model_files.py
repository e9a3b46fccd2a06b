"""A stage's model: built from an artifact, and saved with what validation data say of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgekd.core.artifact import Artifact
from edgekd.core.digest import files_below
from edgekd.core.preprocess import Preprocess
from edgekd.data.split import Split
from edgekd.measure.accuracy import predictions
from edgekd.stages.context import Data, StageContext
from edgekd.stages.stage import Product

if TYPE_CHECKING:
    from edgekd.networks.model import Model

MODEL = "model"
"""Folder, within an artifact, of `spec.json` and `weights.safetensors`."""
_STATISTICS_IMAGES = 10_000


def default_preprocess(data: Data) -> Preprocess:
    """Size of the data, mean and sd of its training pixels to three decimals (same seed, same numbers)."""
    mean, std = _statistics(data.dataset.train)
    return Preprocess(size=data.dataset.image_size, mean=mean, std=std)


def _statistics(split: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    count = min(len(split), _STATISTICS_IMAGES)
    indices = np.linspace(0, len(split) - 1, count).astype(int).tolist()
    sums: npt.NDArray[np.float64] | float = 0.0
    squares: npt.NDArray[np.float64] | float = 0.0
    pixels = 0
    for start in range(0, count, 512):
        for image in split.images.get(indices[start : start + 512]):
            flat = image.reshape(-1, image.shape[-1]).astype(np.float64) / 255
            sums, squares, pixels = sums + flat.sum(0), squares + (flat**2).sum(0), pixels + len(flat)
    mean = np.asarray(sums) / pixels
    std = np.sqrt(np.maximum(np.asarray(squares) / pixels - mean**2, 1e-4))
    return tuple(np.round(mean, 3).tolist()), tuple(np.round(std, 3).tolist())


def load(artifact: Artifact, *, trust_code: bool) -> Model:
    """The model of an artifact, in evaluation mode."""
    from edgekd.networks.model import load_model

    return load_model(artifact.folder / MODEL, trust_code=trust_code)


def evaluation_arrays(
    context: StageContext, preprocess: Preprocess, split: str
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """uint8 `[N, H, W, C]` and labels of a split, as the agent will read them."""
    evalset = context.data.evalset(preprocess, split)
    read = partial(np.load, allow_pickle=False)
    return read(evalset.path("images.npy")), read(evalset.path("labels.npy"))


def val_logits(context: StageContext, model: Model) -> npt.NDArray[np.float32]:
    """Logits of the validation images, computed in torch."""
    from edgekd.networks.resize import Normalize
    from edgekd.train.evaluate import predict_logits
    from edgekd.train.seeding import reproducible

    images, _ = evaluation_arrays(context, model.spec.preprocess, "val")
    with reproducible(context.threads):
        return predict_logits(model.module, Normalize(model.spec.preprocess), images)


def accuracy(context: StageContext, model: Model, logits: npt.NDArray[np.float32]) -> float:
    """Of these answers of the model to val, in [0, 1]: an image of a class that it lacks is one it misses."""
    _, labels = evaluation_arrays(context, model.spec.preprocess, "val")
    answers = predictions(logits, model.spec.labels, context.data.dataset.classes)
    return float((answers == labels).mean())


def score(context: StageContext, model: Model) -> float:
    """Accuracy on val, in [0, 1]."""
    return accuracy(context, model, val_logits(context, model))


def save_scored(context: StageContext, model: Model, facts: Mapping[str, Any]) -> Product:
    """Save a model into the step's folder and score it on val."""
    from edgekd.networks.model import save_model

    save_model(context.folder / MODEL, model)
    found = {**model_facts(model), "val_accuracy": score(context, model), **facts}
    return Product("model", found, files_of_model(context))


def model_facts(model: Model) -> dict[str, Any]:
    """What is known of a model without data."""
    spec = model.spec
    return {
        "network": spec.network.name,
        "network_args": dict(spec.network.args),
        "preprocess": spec.preprocess.model_dump(mode="json"),
        "labels": list(spec.labels),
        "num_parameters": sum(p.numel() for p in model.module.parameters()),
        "quantized": bool(spec.transforms),
    }


def files_of_model(context: StageContext) -> list[str]:
    """Every file below the step's `model/`, relative to the step's folder."""
    return [f"{MODEL}/{file}" for file in files_below(context.folder / MODEL)]
