import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekd.core.errors import DataError
from edgekd.data.decode import decode_file, read_size, resize
from tests.data.making import random_pixels, save_images


def test_rgb_pixels_come_out_as_they_are(tmp_path: Path) -> None:
    pixels = random_pixels(5, 7, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode_file(tmp_path / "a.png", 3), pixels)
    assert read_size(tmp_path / "a.png") == (5, 7)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_common_mode_becomes_gray_or_rgb(tmp_path: Path, mode: str, channels: int) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    if mode == "I;16":
        Image.fromarray(np.full((4, 6), 0x80FF, np.uint16)).save(path)
    else:
        Image.new("RGB", (6, 4), (128, 128, 128)).convert(mode).save(path)
    image = decode_file(path, channels)
    assert image.shape == (4, 6, channels)
    if mode not in ("P", "1"):
        assert np.abs(image.astype(int) - 128).max() <= 1


def test_a_palette_with_transparency_decodes(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 4), (10, 200, 30)).convert("P")
    image.save(tmp_path / "a.png", transparency=bytes(range(0, 200, 50)))
    assert decode_file(tmp_path / "a.png", 3).shape == (4, 4, 3)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    pixels = random_pixels(4, 6, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(decode_file(tmp_path / "a.png", 3), np.rot90(pixels, -1))
    assert read_size(tmp_path / "a.png") == (6, 4)


def test_a_truncated_image_is_refused(tmp_path: Path) -> None:
    (path,) = save_images(tmp_path, 1, seed=0, size=(64, 64))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="cannot decode"):
        decode_file(path, 3)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"text"])
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot decode"):
        decode_file(path, 3)


@pytest.mark.parametrize("side", [12_000, 60_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused_by_its_header(tmp_path: Path, side: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)))
    for read in (lambda: decode_file(path, 3), lambda: read_size(path)):
        with pytest.raises(DataError, match="pixels"):
            read()


def test_an_image_of_the_right_shape_is_not_touched() -> None:
    image = random_pixels(8, 8, 3)
    assert resize(image, (8, 8), 3) is image


def test_gray_is_itu_601_luma_and_rgb_is_repetition() -> None:
    image = random_pixels(8, 8, 3)
    luma = image @ np.array([0.299, 0.587, 0.114])
    assert np.abs(resize(image, (8, 8), 1)[..., 0] - luma).max() <= 1
    gray = image[..., :1]
    np.testing.assert_array_equal(resize(gray, (8, 8), 3), np.repeat(gray, 3, axis=2))


def test_shrinking_is_antialiased() -> None:
    stripes = np.zeros((64, 64, 1), np.uint8)
    stripes[:, ::2] = 255
    small = resize(stripes, (16, 16), 1, "bilinear")
    assert np.abs(small.astype(int) - 128).max() < 30
    assert set(np.unique(resize(stripes, (16, 16), 1, "nearest"))) <= {0, 255}
