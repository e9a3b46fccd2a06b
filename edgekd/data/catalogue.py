"""The data sources that a recipe may name."""

from __future__ import annotations

from edgekd.core.registry import Entry, Registry
from edgekd.data.source import Source

SOURCES: Registry[type[Source]] = Registry(
    "data source",
    [
        Entry(
            "digits",
            "edgekd.data.sources.digits:Digits",
            "scikit-learn's bundled 8x8 handwritten digits (1,797 images)",
            extra="train",
        ),
        Entry(
            "fashion_mnist",
            "edgekd.data.sources.fashion_mnist:FashionMnist",
            "Fashion-MNIST from IDX files (28x28 gray, 60,000 + 10,000)",
        ),
        Entry(
            "cifar10",
            "edgekd.data.sources.cifar:Cifar10",
            "CIFAR-10 from its binary, Python or .npz files (32x32 RGB)",
        ),
        Entry(
            "cifar100",
            "edgekd.data.sources.cifar:Cifar100",
            "CIFAR-100 from its binary, Python or .npz files (32x32 RGB)",
        ),
        Entry(
            "image_folder",
            "edgekd.data.sources.image_folder:ImageFolder",
            "your own images: split/class/file or class/file",
        ),
        Entry(
            "arrays",
            "edgekd.data.sources.arrays:Arrays",
            "your own arrays in one .npz: x_train, y_train, ...",
        ),
    ],
    group="edgekd.data",
)
