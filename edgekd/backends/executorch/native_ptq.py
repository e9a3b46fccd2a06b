"""INT8 by ExecuTorch's own quantizer, for a float network: its integers are not those of our training."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from edgekd.core.errors import DataError


def quantized(module: fx.GraphModule, images: Iterator[npt.NDArray[np.float32]]) -> fx.GraphModule:
    """`module` (captured for one image) with XNNPACK's quantizers, calibrated on `images` `[N, C, H, W]`.

    Symmetric int8 weights per channel, asymmetric int8 activations from their smallest and largest value.
    """
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(module, quantizer)
    count = 0
    for batch in images:
        for image in torch.from_numpy(np.ascontiguousarray(batch)):
            prepared(image[None])  # the captured graph takes one image
            count += 1
    if not count:
        raise DataError("there are no images to calibrate with", where="ExecuTorch's int8")
    converted: fx.GraphModule = convert_pt2e(prepared)
    return converted
