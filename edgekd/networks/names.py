"""The names of networks, so that listing and checking them needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from edgekd.core.registry import Entry, Registry

if TYPE_CHECKING:
    from torch import nn

Builder: TypeAlias = "Callable[..., nn.Module]"
"""`builder(*, num_classes, in_channels, **args) -> nn.Module`; its annotations are checked."""

NETWORKS: Registry[Builder] = Registry(
    "network",
    [
        Entry(
            "resnet_cifar",
            "edgekd.networks.resnet_cifar:resnet_cifar",
            "ResNet for small images, depth 6n+2, width factor, shortcut A or B",
            extra="train",
        ),
        Entry(
            "wrn",
            "edgekd.networks.wrn:wrn",
            "Wide ResNet d-k with pre-activation, depth 6n+4",
            extra="train",
        ),
        Entry(
            "mobilenet_v2",
            "edgekd.networks.mobilenet_small:mobilenet_v2",
            "MobileNetV2 for small images: width, depth, activation",
            extra="train",
        ),
        Entry(
            "mobilenet_v3",
            "edgekd.networks.mobilenet_small:mobilenet_v3",
            "MobileNetV3 for small images: width, depth, activation, squeeze-excite",
            extra="train",
        ),
        Entry(
            "torchvision",
            "edgekd.networks.torchvision_network:torchvision_network",
            "any torchvision classifier: `torchvision/resnet50`",
            extra="train",
        ),
        Entry(
            "timm",
            "edgekd.networks.timm_network:timm_network",
            "any timm classifier: `timm/resnet10t`",
            extra="timm",
        ),
        Entry(
            "onnx",
            "edgekd.networks.onnx_teacher:onnx_teacher",
            "an ONNX graph as a frozen teacher: logits only",
            extra="train",
        ),
    ],
    group="edgekd.networks",
)
