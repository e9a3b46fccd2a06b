"""Defects in the images and labels that a sound model is judged by."""

from __future__ import annotations

import numpy as np

from planted.running import VICTIM, WEAK, Outcome, Place, audited, defect, rng, specification
from planted.zoo import Images, Labels, Net, built, save_folder, save_npz, session, tinted

# --- the images ---------------------------------------------------------------------------------------------


@defect("channel-order|accuracy")
def images_decoded_blue_first(place: Place) -> Outcome:
    return audited(place, images=np.ascontiguousarray(tinted().test[0][..., ::-1]))


@defect("inverted|accuracy")
def negative_images(place: Place) -> Outcome:
    return audited(place, images=255 - tinted().test[0])


@defect("transposed|accuracy")
def transposed_images(place: Place) -> Outcome:
    return audited(place, images=np.ascontiguousarray(tinted().test[0].transpose(0, 2, 1, 3)))


@defect("layout|accuracy")
def arrays_reshaped_instead_of_transposed(place: Place) -> Outcome:
    images = tinted().test[0]
    return audited(place, images=images.transpose(0, 3, 1, 2).reshape(images.shape))


@defect("accuracy|preprocessing")
def dark_images(place: Place) -> Outcome:
    """Stored linearly, where training saw gamma-encoded ones."""
    encoded = tinted().test[0] / 255.0
    return audited(place, images=np.clip(255 * encoded**2.2, 0, 255).astype(np.uint8))


@defect("accuracy|preprocessing|inverted")
def overexposed_images(place: Place) -> Outcome:
    return audited(place, images=np.clip(tinted().test[0].astype(int) + 150, 0, 255).astype(np.uint8))


@defect("accuracy")
def noisy_images(place: Place) -> Outcome:
    noise = rng(4).normal(0, 90, tinted().test[0].shape)
    return audited(place, images=np.clip(tinted().test[0] + noise, 0, 255).astype(np.uint8))


@defect("label-order|accuracy|chance")
def labels_off_by_one(place: Place) -> Outcome:
    return audited(place, labels=(tinted().test[1] + 1) % 10)


@defect("chance|accuracy")
def shuffled_labels(place: Place) -> Outcome:
    return audited(place, labels=rng(5).permutation(tinted().test[1]))


@defect("accuracy")
def a_tenth_of_the_labels_wrong(place: Place) -> Outcome:
    labels = tinted().test[1].copy()
    rows = rng(6).choice(len(labels), len(labels) // 10, replace=False)
    labels[rows] = (labels[rows] + rng(7).integers(1, 10, len(rows))) % 10
    return audited(place, labels=labels)


@defect("missing-classes")
def truncated_evaluation_set(place: Place) -> Outcome:
    """Sorted by class, of which the last three never arrived."""
    images, labels = tinted().test
    rows = np.flatnonzero(labels < 7)
    return audited(place, images=images[rows], labels=labels[rows])


@defect("holds|images")
def fewer_images_than_there_must_be(place: Place) -> Outcome:
    images, labels = tinted().test
    return audited(place, images=images[:700], labels=labels[:700], spec={**specification(), "images": 902})


@defect("readable|npy|npz")
def truncated_image_file(place: Place) -> Outcome:
    images, labels = tinted().test
    folder = place / "images"
    folder.mkdir()
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", labels)
    whole = (folder / "images.npy").read_bytes()
    (folder / "images.npy").write_bytes(whole[: len(whole) // 2])
    return place.audit(built(VICTIM).save(place / "model.onnx"), folder, spec=specification())


@defect("copies", fast=True)
def every_image_ten_times(place: Place) -> Outcome:
    """Eighty images become eight hundred, and the interval a third as wide."""
    images, labels = tinted().test
    return audited(place, images=images[:80].repeat(10, axis=0), labels=labels[:80].repeat(10))


@defect("accuracy|contradictions|copies")
def images_in_two_classes(place: Place) -> Outcome:
    images, labels = tinted().test
    again = rng(8).choice(len(images), 15, replace=False)
    return audited(
        place,
        images=np.concatenate([images, images[again]]),
        labels=np.concatenate([labels, (labels[again] + 1) % 10]),
    )


@defect("leak", fast=True)
def leaked_split(place: Place) -> Outcome:
    """One test image in ten is in the training data."""
    images, labels = tinted().test
    rows = rng(9).choice(len(images), len(images) // 10, replace=False)
    learned = (
        np.concatenate([tinted().train[0], images[rows]]),
        np.concatenate([tinted().train[1], labels[rows]]),
    )
    train = save_npz(place / "train.npz", *learned, tinted().classes)
    return audited(place, None, "--train-data", str(train))


@defect("leak")
def leaked_with_other_brightness(place: Place) -> Outcome:
    images, labels = tinted().test
    rows = rng(10).choice(len(images), len(images) // 8, replace=False)
    brighter = np.clip(images[rows].astype(int) + 4, 0, 255).astype(np.uint8)
    train = save_npz(place / "train.npz", brighter, labels[rows], tinted().classes)
    return audited(place, None, "--train-data", str(train))


def answers(net: Net, images: Images) -> Labels:
    run = session(built(net).model())
    return np.asarray(run.run(None, {"input": net.inputs(images)})[0].argmax(axis=1), np.int64)


@defect("labels-follow-answers", fast=True)
def labels_made_by_the_model(place: Place) -> Outcome:
    images = tinted().test[0]
    return audited(place, net=WEAK, labels=answers(WEAK, images))


@defect("accuracy")
def too_few_images(place: Place) -> Outcome:
    """Forty images without an error are no evidence of 93 %."""
    images, labels = tinted().test
    rows = np.concatenate([np.flatnonzero(labels == number)[:4] for number in range(10)])
    return audited(place, images=images[rows], labels=labels[rows])


@defect("class")
def folders_of_other_names(place: Place) -> Outcome:
    images, labels = tinted().test
    names = [f"thing{number}" for number in range(10)]
    save_folder(place / "photos", images, labels, names)
    return place.audit(built(VICTIM).save(place / "model.onnx"), "photos", spec=specification())


@defect("unknown-classes")
def a_class_that_it_does_not_know(place: Place) -> Outcome:
    """Misspelt: its images could never be answered rightly."""
    images, labels = tinted().test
    keep = np.flatnonzero((labels != 9) | (np.cumsum(labels == 9) <= 12))
    names = [*tinted().classes[:9], "4_blue"]
    save_folder(place / "photos", images[keep], labels[keep], names)
    return place.audit(built(VICTIM).save(place / "model.onnx"), "photos", spec=specification())


@defect("train")
def judged_by_training_images(place: Place) -> Outcome:
    save_folder(place / "photos" / "train", *tinted().train, tinted().classes)
    return place.audit(built(VICTIM).save(place / "model.onnx"), "photos", spec=specification())
