"""Torch is warmed up before the first test."""

# The first optimizer imports this, and it sets TORCHINDUCTOR_CACHE_DIR, which the root conftest would report
# as a leak of the test: https://github.com/pytorch/pytorch/blob/main/torch/_inductor/runtime/cache_dir_utils.py
import torch._dynamo  # noqa: F401
