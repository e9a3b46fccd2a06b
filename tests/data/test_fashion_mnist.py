import gzip
import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from edgekd.core.errors import DataError
from edgekd.data.download import download
from edgekd.data.idx import read_idx
from edgekd.data.sources import fashion_mnist
from edgekd.data.sources.fashion_mnist import FashionMnist
from tests.data.making import fashion_folder, random_pixels, write_idx


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the URL under which a local server offers it."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


def gzip_in_place(folder: Path) -> None:
    for path in list(folder.iterdir()):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()


def test_plain_and_gzipped_files_are_the_same_data(tmp_path: Path) -> None:
    plain, packed = fashion_folder(tmp_path / "a"), fashion_folder(tmp_path / "b")
    gzip_in_place(packed)
    first, second = FashionMnist(root=plain).open(0), FashionMnist(root=packed).open(0)
    assert first.digest() == second.digest()
    assert (len(first.train), len(first.val), len(first.test)) == (50, 10, 20)
    assert (first.image_size, first.channels) == ((28, 28), 1)


def test_a_missing_file_is_named_with_the_fix(tmp_path: Path) -> None:
    (fashion_folder(tmp_path) / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"no file `t10k-labels-idx1-ubyte`(.|\n)*download: true"):
        FashionMnist(root=tmp_path).open(0)


def test_a_missing_folder_shows_what_is_near(tmp_path: Path) -> None:
    (tmp_path / "fashoin").mkdir()
    with pytest.raises(DataError, match="holds: fashoin"):
        FashionMnist(root=tmp_path / "fashion" / "raw").open(0)


def test_images_and_labels_must_be_as_many(tmp_path: Path) -> None:
    write_idx(fashion_folder(tmp_path) / "train-labels-idx1-ubyte", np.zeros(59, np.uint8))
    with pytest.raises(DataError, match="60 images but 59 labels"):
        FashionMnist(root=tmp_path).open(0)


def test_a_label_beyond_the_classes_is_refused(tmp_path: Path) -> None:
    write_idx(fashion_folder(tmp_path) / "train-labels-idx1-ubyte", np.full(60, 10, np.uint8))
    with pytest.raises(DataError, match=r"outside 0\.\.9"):
        FashionMnist(root=tmp_path).open(0)


@pytest.mark.parametrize("keep", [0, 3, 9, 15, 100])
def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "images"
    write_idx(path, random_pixels(3, 6, 6))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="images"):
        read_idx(path, 3)


def test_a_gzip_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(random_pixels(1000).tobytes())[:200])
    with pytest.raises(DataError, match=r"cannot read|starts with"):
        read_idx(path, 1)


def test_trailing_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "images"
    write_idx(path, random_pixels(3, 6, 6))
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(DataError, match="followed by more data"):
        read_idx(path, 3)


def test_another_kind_of_idx_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels"
    write_idx(path, np.zeros(5, np.uint8))
    with pytest.raises(DataError, match=r"00 00 08 01, but(.|\n)*00 00 08 03"):
        read_idx(path, 3)


def test_a_header_that_declares_terabytes_allocates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "images"
    path.write_bytes(bytes((0, 0, 8, 3)) + b"\xff" * 12)
    with pytest.raises(DataError, match="more than"):
        read_idx(path, 3)


def test_only_missing_files_are_fetched(
    tmp_path: Path, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror, url = served
    gzip_in_place(fashion_folder(mirror))
    published = {
        path.name.removesuffix(".gz"): fashion_mnist._Published(
            hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size
        )
        for path in mirror.iterdir()
    }
    monkeypatch.setattr(fashion_mnist, "FILES", published)
    monkeypatch.setattr(fashion_mnist, "MIRROR", url)
    root = tmp_path / "root"
    root.mkdir()
    own = root / "train-labels-idx1-ubyte"
    write_idx(own, np.arange(60, dtype=np.uint8) % 10)
    fashion_mnist.fetch_missing(root, url)
    assert not own.with_name(own.name + ".gz").exists()
    assert len(FashionMnist(root=root).open(0).test) == 20


def test_nothing_is_left_of_a_download_with_other_content(tmp_path: Path, served: tuple[Path, str]) -> None:
    mirror, url = served
    (mirror / "file").write_bytes(b"12345")
    target = tmp_path / "got" / "file"
    with pytest.raises(DataError, match="sha256 differs"):
        download(url + "file", target, sha256="0" * 64, size_bytes=5)
    with pytest.raises(DataError, match="instead of 4"):
        download(url + "file", target, sha256="0" * 64, size_bytes=4)
    assert list(target.parent.iterdir()) == []


def test_an_unreachable_mirror_says_what_to_do(tmp_path: Path, served: tuple[Path, str]) -> None:
    _, url = served
    with pytest.raises(DataError, match="by hand"):
        download(url + "absent", tmp_path / "absent", sha256="0" * 64, size_bytes=4)
