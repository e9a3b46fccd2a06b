"""Quantization without training: what both the quantize stage and the timing of candidates start from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from edgekd.backends.names import AUTO
from edgekd.backends.profile import DEFAULT_PROFILE
from edgekd.stages.context import StageContext

if TYPE_CHECKING:
    from torch import Tensor

    from edgekd.networks.model import Model
    from edgekd.quant.settings import QuantSettings
    from edgekd.stages.quantize import QuantizeConfig

_BATCH = 64


def quant_settings(
    config: QuantizeConfig, target_facts: Mapping[str, Mapping[str, Any]], profile: str | None
) -> QuantSettings:
    """The settings with every `auto` decided: by the targets' facts, and by what ships (`profile`)."""
    from edgekd.quant.settings import QuantSettings

    bits = weight_bits_for(target_facts) if config.weight_bits == "auto" else config.weight_bits
    return QuantSettings(
        profile=(profile or DEFAULT_PROFILE) if config.profile == AUTO else config.profile,
        weight_bits=bits,
        percentile=config.percentile,
        learn_steps=config.learn_steps,
        float_modules=config.float_modules,
    )


def weight_bits_for(target_facts: Mapping[str, Mapping[str, Any]]) -> int:
    """8, or 7 where an x86 target lacks VNNI: its u8 x s8 product saturates int16 beyond |w| = 64."""
    return 7 if any(_saturates(facts) for facts in target_facts.values()) else 8


def _saturates(facts: Mapping[str, Any]) -> bool:
    return facts.get("machine") in ("x86_64", "AMD64", "i686") and not facts.get("vnni")


def calibrated(
    context: StageContext, original: Model, settings: QuantSettings, num_batches: int | None = None
) -> Model:
    """A folded and calibrated copy of a float model; `original` is left as it is."""
    from edgekd.networks.model import Model
    from edgekd.quant.prepare import calibrate, prepare
    from edgekd.quant.transform import transform_record

    batches = list(_batches(context, original))[:num_batches]
    module = prepare(original.module, settings, batches[0])
    calibrate(module, batches)
    spec = original.spec.model_copy(
        update={"transforms": (*original.spec.transforms, transform_record(module))}
    )
    return Model(spec, module, original.files_root)


def finalized(model: Model) -> None:
    """Round biases to the kernels' grid, so that torch computes what the artifact computes."""
    from edgekd.quant.prepare import finalize
    from edgekd.quant.quantized_module import QuantizedModule

    assert isinstance(model.module, QuantizedModule)
    finalize(model.module)


def _batches(context: StageContext, model: Model) -> Iterator[Tensor]:
    import torch

    from edgekd.stages.model_files import evaluation_arrays

    images, _ = evaluation_arrays(context, model.spec.preprocess, "calibration")
    for start in range(0, len(images), _BATCH):
        yield torch.from_numpy(model.spec.preprocess.apply(images[start : start + _BATCH]))
