"""Versions that several backends were proven with, as their `versions` state them."""

from __future__ import annotations

TORCH = {"torch": ">=2.9,<3"}
TORCH_AND_ONNX = {**TORCH, "onnx": ">=1.17,<2", "onnxscript": ">=0.5,<1"}
