import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from edgekd.core.errors import MissingDependencyError
from edgekd.data.sources.digits import Digits


def test_pixels_are_scaled_to_uint8() -> None:
    dataset = Digits().open(0)
    assert (dataset.image_size, dataset.channels, len(dataset.classes)) == ((8, 8), 1, 10)
    wanted = {np.rint(image * 255 / 16).astype(np.uint8).tobytes() for image in load_digits().images}
    assert all(image.tobytes() in wanted for image in dataset.test.images.get(range(len(dataset.test))))


def test_test_is_large_enough_for_a_gate() -> None:
    dataset = Digits().open(0)
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (899, 179, 719)


def test_the_seed_decides_the_split() -> None:
    assert Digits().open(1).digest() == Digits().open(1).digest() != Digits().open(2).digest()


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingDependencyError, match=r"edgekd\[train\]"):
        Digits().open(0)


def test_opening_does_not_import_scikit_learn() -> None:
    code = (
        "import sys\nfrom edgekd.data.sources.digits import Digits\n"
        "Digits().open(0)\nassert 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
