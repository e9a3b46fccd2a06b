"""What the tests of searching need before the first of them runs."""

# Shape rules of the meta device import this, and it sets TORCHINDUCTOR_CACHE_DIR when it is first imported
# (torch/_inductor/runtime/cache_dir_utils.py); the test that comes first would be blamed for it.
import torch._dynamo  # noqa: F401
