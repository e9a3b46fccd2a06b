"""How the images of an epoch are grouped into batches, and the views a program may ask for."""

from __future__ import annotations

from typing import Literal

Sampler = Literal["shuffled", "class_uniform"]
"""`shuffled`: every image once an epoch. `class_uniform`: as many images of every class in each batch."""

SAME_CLASS = "same_class"
"""The view that shows another image of the same class, augmented by itself.

Every other view name (`x`, `x2`, ...) is an augmentation of its own of the batch's images.
"""
