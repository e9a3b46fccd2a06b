from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from edgekd.core.errors import DataError, ModelError, UsageError
from edgekd.core.run_record import MEASUREMENTS, VERDICT
from edgekd.core.verdict import Verdict
from edgekd.pipeline.bundle import Bundle, make_bundle
from edgekd.pipeline.prediction import predict_files, softmax
from edgekd.store.store import Store
from tests.measure import graphs
from tests.pipeline.small_run import make_run


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("run")
    run = make_run(Store(folder / "store"), folder)
    (run / MEASUREMENTS).write_text("")
    (run / VERDICT).write_text(Verdict(outcome="inconclusive", results=()).model_dump_json())
    return make_bundle(run, folder / "bundle")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(1).integers(0, 256, (20, 31, 3), dtype=np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    return path


def _expected(bundle: Bundle, file: Path) -> np.ndarray:
    """The shares of the classes, by Pillow, NumPy and ONNX Runtime alone."""
    image = Image.open(file).convert("RGB").resize((8, 8), Image.Resampling.BILINEAR)
    x = bundle.preprocess.apply(np.asarray(image)[None])
    session = onnxruntime.InferenceSession(bundle.graph, providers=["CPUExecutionProvider"])
    logits = session.run(None, {"input": x})[0][0].astype(np.float64)
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def test_the_shares_are_those_of_the_graph_in_its_runtime(bundle: Bundle, photo: Path) -> None:
    (found,) = predict_files(bundle, [photo], top=4)
    shares = _expected(bundle, photo)
    assert [label for label, _ in found.classes] == [graphs.CLASSES[i] for i in np.argsort(-shares)]
    np.testing.assert_allclose([share for _, share in found.classes], np.sort(shares)[::-1], atol=1e-5)


def test_images_are_turned_as_their_exif_orientation_says(
    bundle: Bundle, photo: Path, tmp_path: Path
) -> None:
    with Image.open(photo) as upright:
        turned = upright.transpose(Image.Transpose.ROTATE_90)
        exif = Image.Exif()
        exif[0x0112] = 6
        turned.save(tmp_path / "turned.png", exif=exif)
    one, other = predict_files(bundle, [photo, tmp_path / "turned.png"], top=4)
    assert one.classes == other.classes


def test_predictions_come_in_the_order_of_the_files_and_only_as_many_classes_as_asked(
    bundle: Bundle, photo: Path, tmp_path: Path
) -> None:
    black = tmp_path / "black.png"
    Image.new("RGB", (8, 8)).save(black)
    found = predict_files(bundle, [black, photo], top=2)
    assert [p.file for p in found] == [black, photo]
    assert [len(p.classes) for p in found] == [2, 2]
    assert found[0].as_data()["file"] == str(black)


def test_every_file_that_cannot_be_decoded_is_named(bundle: Bundle, photo: Path, tmp_path: Path) -> None:
    broken, absent = tmp_path / "broken.jpg", tmp_path / "absent.png"
    broken.write_bytes(b"\xff\xd8\xff\xe0 not really")
    with pytest.raises(DataError) as caught:
        predict_files(bundle, [photo, broken, absent])
    assert str(broken) in str(caught.value)
    assert str(absent) in str(caught.value)
    assert str(photo) not in str(caught.value)


def test_a_decompression_bomb_is_refused(
    bundle: Bundle, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"photo\.png.*pixels"):
        predict_files(bundle, [photo])


def test_a_bundle_with_too_few_labels_is_refused(bundle: Bundle, photo: Path) -> None:
    manifest = bundle.manifest.model_copy(update={"labels": ("a", "b")})
    with pytest.raises(ModelError, match="4 logits per image"):
        predict_files(Bundle(bundle.folder, manifest), [photo])


def test_no_image_at_all_is_a_usage_error(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="at least one image"):
        predict_files(bundle, [])


def test_softmax_of_large_logits_does_not_overflow() -> None:
    shares = softmax(np.array([[1000.0, 0.0], [0.0, 0.0]], np.float32))
    np.testing.assert_array_equal(shares, [[1.0, 0.0], [0.5, 0.5]])
