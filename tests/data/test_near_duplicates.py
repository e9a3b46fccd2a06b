import io

import numpy as np
from PIL import Image

from edgekd.data.near_duplicates import chain, components, difference_hashes, near_pairs, thumbnail
from tests.data.making import random_pixels


def photo(seed: int) -> Image.Image:
    return Image.fromarray(random_pixels(5, 5, 3, seed=seed)).resize((64, 64), Image.Resampling.BICUBIC)


def thumbnails(*images: Image.Image) -> np.ndarray:
    return np.stack([thumbnail(np.asarray(image)) for image in images])


def saved_again(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=50)
    return Image.open(buffer).convert("RGB")


def test_a_resaved_a_rescaled_and_a_brightened_copy_are_found() -> None:
    original = photo(0)
    bright = original.point(lambda value: min(255, int(value * 1.05)))
    small = original.resize((48, 48)).resize((64, 64))
    found = near_pairs(thumbnails(original, saved_again(original), photo(1), small, bright))
    assert {(0, 1), (0, 3), (0, 4)} <= set(map(tuple, found.tolist()))
    assert not (found == 2).any()


def test_unrelated_photos_are_not_found() -> None:
    assert len(near_pairs(thumbnails(*(photo(seed) for seed in range(200))))) == 0


def test_nearly_flat_images_are_not_tied_together() -> None:
    random = np.random.default_rng(0)
    flat = (128 + random.integers(-2, 3, (200, 64, 64, 1))).astype(np.uint8)
    assert len(near_pairs(np.stack([thumbnail(image) for image in flat]))) == 0


def test_bands_find_every_pair_that_brute_force_finds() -> None:
    bases = [photo(seed) for seed in range(40)]
    many = thumbnails(*bases, *(saved_again(base) for base in bases))
    hashes = difference_hashes(many)
    unit = many - many.mean(axis=1, keepdims=True)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    wanted = {
        (a, b)
        for a in range(len(many))
        for b in range(a + 1, len(many))
        if bin(int(hashes[a]) ^ int(hashes[b])).count("1") <= 7 and unit[a] @ unit[b] >= 0.99
    }
    assert set(map(tuple, near_pairs(many).tolist())) == wanted
    assert len(wanted) >= 40


def test_the_hash_compares_each_cell_with_its_right_neighbor() -> None:
    cells = random_pixels(8, 8)
    expected = 0
    for row in range(8):
        for column in range(8):
            expected = expected << 1 | int(cells[row, column] > cells[row, (column + 1) % 8])
    image = np.kron(cells, np.ones((2, 2), np.uint8))
    assert int(difference_hashes(image.reshape(1, 256))[0]) == expected


def test_components_connect_chains() -> None:
    pairs = np.array([[3, 4], [0, 2], [2, 4]])
    np.testing.assert_array_equal(components(6, pairs), [0, 1, 0, 0, 0, 5])


def test_chain_connects_equal_keys() -> None:
    groups = components(5, chain(np.array([7, 8, 7, 7, 8])))
    np.testing.assert_array_equal(groups, [0, 1, 0, 0, 1])
