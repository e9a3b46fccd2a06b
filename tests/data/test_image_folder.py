import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from edgekd.core.errors import DataError
from edgekd.data.file_images import FileImages
from edgekd.data.sources.image_folder import ImageFolder
from edgekd.data.split import Dataset, Split
from tests.data.making import image_folder, random_pixels, save_images


def ids(split: Split) -> set[str]:
    assert split.ids is not None
    return set(split.ids)


def all_splits(dataset: Dataset) -> tuple[Split, Split, Split]:
    return dataset.train, dataset.val, dataset.test


def split_folder(root: Path) -> Path:
    for name, count in (("train", 20), ("val", 5), ("test", 6)):
        image_folder(root / name, {"bee": count, "ant": count})
    return root


def test_class_folders_are_split_by_seed_and_class(tmp_path: Path) -> None:
    root = image_folder(tmp_path, {"bee": 20, "ant": 30})
    dataset = ImageFolder(root=root).open(0)
    assert dataset.classes == ("ant", "bee")
    assert [np.bincount(s.labels).tolist() for s in all_splits(dataset)] == [[21, 14], [3, 2], [6, 4]]
    assert all(
        name.startswith(dataset.classes[label])
        for s in all_splits(dataset)
        for name, label in zip(s.ids or (), s.labels, strict=True)
    )
    assert (
        ImageFolder(root=root).open(0).digest() == dataset.digest() != ImageFolder(root=root).open(1).digest()
    )


def test_given_splits_are_kept(tmp_path: Path) -> None:
    dataset = ImageFolder(root=split_folder(tmp_path)).open(0)
    assert [len(s) for s in all_splits(dataset)] == [40, 10, 12]
    assert all(name.startswith("test/") for name in ids(dataset.test))


def test_a_missing_val_is_held_out_of_train(tmp_path: Path) -> None:
    shutil.rmtree(split_folder(tmp_path) / "val")
    dataset = ImageFolder(root=tmp_path).open(0)
    assert [len(s) for s in all_splits(dataset)] == [36, 4, 12]


@pytest.mark.parametrize("missing", ["train", "test"])
def test_a_missing_split_is_an_error(tmp_path: Path, missing: str) -> None:
    shutil.rmtree(split_folder(tmp_path) / missing)
    with pytest.raises(DataError, match=f"no `{missing}` folder"):
        ImageFolder(root=tmp_path).open(0)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    dataset = ImageFolder(root=image_folder(tmp_path, {"train": 10, "bus": 10})).open(0)
    assert dataset.classes == ("bus", "train")


def test_pixels_are_resized_and_converted(tmp_path: Path) -> None:
    root = image_folder(tmp_path, {"a": 10, "b": 10})
    dataset = ImageFolder(root=root, size=(6, 8), channels=1).open(0)
    assert (dataset.image_size, dataset.channels) == ((6, 8), 1)
    assert dataset.train.images.get([0])[0].shape == (6, 8, 1)


def test_the_own_size_is_used_where_all_agree(tmp_path: Path) -> None:
    assert ImageFolder(root=image_folder(tmp_path, {"a": 5, "b": 5})).open(0).image_size == (12, 10)


def test_differing_sizes_are_a_note(tmp_path: Path) -> None:
    image_folder(tmp_path / "x", {"a": 5, "b": 5}, size=(70, 90))
    save_images(tmp_path / "x" / "a", 5, seed=77, size=(100, 80))
    dataset = ImageFolder(root=tmp_path / "x").open(0)
    assert dataset.image_size == (64, 64)
    assert any("2 different sizes" in note for note in dataset.notes)


def test_decoding_on_demand_gives_the_same_data_set(tmp_path: Path) -> None:
    root = image_folder(tmp_path, {"a": 10, "b": 10})
    lazy, eager = ImageFolder(root=root, memory_mb=0).open(0), ImageFolder(root=root).open(0)
    assert isinstance(lazy.train.images, FileImages)
    assert lazy.digest() == eager.digest()
    for first, second in zip(lazy.train.images.get([3, 0]), eager.train.images.get([3, 0]), strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_file_that_changes_under_way_is_an_error(tmp_path: Path) -> None:
    dataset = ImageFolder(root=image_folder(tmp_path, {"a": 10, "b": 10}), memory_mb=0).open(0)
    assert dataset.train.ids is not None
    Image.fromarray(random_pixels(12, 10, 3)).save(tmp_path / dataset.train.ids[5])
    with pytest.raises(DataError, match="changed while"):
        dataset.train.images.get([5])


def test_images_of_a_group_stay_together(tmp_path: Path) -> None:
    for patient in range(12):
        for label in ("ill", "well"):
            save_images(tmp_path / label / f"patient{patient}", 3, seed=patient * 2 + (label == "ill"))
    dataset = ImageFolder(root=tmp_path, group=r"patient(\d+)").open(0)
    patients = [{name.split("/")[1] for name in ids(split)} for split in all_splits(dataset)]
    assert all(patients) and sum(map(len, patients)) == 12


def test_a_group_that_matches_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="matches nothing in 10 names"):
        ImageFolder(root=image_folder(tmp_path, {"a": 5, "b": 5}), group="patient").open(0)


def test_a_group_that_is_no_expression_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="not a regular expression"):
        ImageFolder(root=tmp_path, group="(")


def test_near_duplicates_stay_together(tmp_path: Path) -> None:
    image_folder(tmp_path, {"a": 30, "b": 30}, size=(32, 32))
    for path in sorted((tmp_path / "a").iterdir()):
        Image.open(path).resize((30, 30)).resize((32, 32)).save(path.with_name(f"copy_{path.name}"))
    dataset = ImageFolder(root=tmp_path).open(0)
    for split in all_splits(dataset):
        for name in ids(split):
            if name.startswith("a/") and "copy" not in name:
                assert name.replace("a/", "a/copy_") in ids(split)
    assert any("60 images have a duplicate" in note for note in dataset.notes)


def test_duplicates_across_given_splits_are_a_leak_note(tmp_path: Path) -> None:
    root = split_folder(tmp_path)
    source = sorted((root / "train" / "ant").iterdir())[0]
    shutil.copy(source, root / "test" / "bee" / "stolen.png")
    notes = ImageFolder(root=root).open(0).notes
    assert any(n.startswith("leak: 1 pairs of exact duplicates") and "stolen.png" in n for n in notes)
    assert any("have two classes" in note for note in notes)


def test_imbalance_is_a_note(tmp_path: Path) -> None:
    notes = ImageFolder(root=image_folder(tmp_path, {"a": 60, "b": 5})).open(0).notes
    assert any(note.startswith("imbalanced") for note in notes)


def test_undecodable_images_are_all_named_at_once(tmp_path: Path) -> None:
    root = image_folder(tmp_path, {"a": 20, "b": 10})
    for number in range(12):
        (root / "a" / f"bad{number:02d}.jpg").write_bytes(b"no image")
    with pytest.raises(DataError) as caught:
        ImageFolder(root=root).open(0)
    message = str(caught.value)
    assert "12 images cannot be decoded" in message and "and 2 more" in message
    assert all(f"bad{number:02d}.jpg" in message for number in range(10))
    assert "skip_undecodable" in message


def test_skipped_images_are_a_note(tmp_path: Path) -> None:
    root = image_folder(tmp_path, {"a": 20, "b": 10})
    whole = sorted((root / "a").iterdir())[0]
    whole.write_bytes(whole.read_bytes()[:60])
    dataset = ImageFolder(root=root, skip_undecodable=True).open(0)
    assert sum(len(s) for s in all_splits(dataset)) == 29
    assert any(whole.name in note for note in dataset.notes)


def test_nothing_decodable_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="2 images cannot be decoded"):
        ImageFolder(root=tmp_path, skip_undecodable=True).open(0)


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no class folders"):
        ImageFolder(root=tmp_path).open(0)


def test_empty_class_folders_are_named(tmp_path: Path) -> None:
    (image_folder(tmp_path, {"a": 5, "b": 5}) / "c").mkdir()
    with pytest.raises(DataError, match="1 class folders hold no images: c"):
        ImageFolder(root=tmp_path).open(0)


def test_one_class_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least two"):
        ImageFolder(root=image_folder(tmp_path, {"a": 5})).open(0)


def test_classes_that_train_lacks_are_an_error(tmp_path: Path) -> None:
    save_images(split_folder(tmp_path) / "test" / "wasp", 2, seed=5)
    with pytest.raises(DataError, match="classes that train lacks: wasp"):
        ImageFolder(root=tmp_path).open(0)


def test_what_is_ignored_is_said(tmp_path: Path) -> None:
    root = split_folder(tmp_path)
    (root / "train" / "ant" / "readme.txt").write_text("x")
    (root / "annotations").mkdir()
    (root / "train" / "ant" / ".hidden.png").write_bytes(b"")
    save_images(root / "train", 1, seed=9)
    notes = " ".join(ImageFolder(root=root).open(0).notes)
    assert ".txt" in notes and "annotations" in notes and "1 images outside" in notes
    assert "hidden" not in notes


def test_a_file_is_no_root(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(DataError, match="is a file, not a folder"):
        ImageFolder(root=tmp_path / "x").open(0)


def test_a_dangling_link_is_not_passed_over(tmp_path: Path) -> None:
    root = image_folder(tmp_path, {"a": 5, "b": 5})
    (root / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match=r"1 images cannot be decoded(.|\n)*gone\.png"):
        ImageFolder(root=root).open(0)
