"""Defects in what is said of a sound model: its preprocessing, classes, layout, digest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from planted.running import VICTIM, Outcome, Place, audited, defect, rng, specification
from planted.zoo import IMAGENET, Net, built, save_folder, tinted


def _with_preprocess(place: Place, **changes: object) -> Outcome:
    spec = specification()
    spec["preprocess"] = {
        key: value for key, value in {**spec["preprocess"], **changes}.items() if value is not None
    }
    return audited(place, spec=spec)


@defect("preprocessing|accuracy")
def wrong_normalization(place: Place) -> Outcome:
    return _with_preprocess(place, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])


@defect("preprocessing")
def slightly_wrong_deviation(place: Place) -> Outcome:
    """Four points are lost, and the limit would hold."""
    net = Net(seed=4, mean=IMAGENET[0], std=IMAGENET[1])
    spec = specification(net, accuracy="90%")
    spec["preprocess"]["std"] = 0.3
    return audited(place, net=net, spec=spec)


@defect("preprocessing")
def slightly_wrong_mean(place: Place) -> Outcome:
    """Eight points are lost, and the limit would hold."""
    net = Net(data="gray", kernel=3, stride=1, mean=(0.5,), std=(0.5,))
    spec = specification(net, accuracy="85%")
    spec["preprocess"]["mean"] = 0.3
    return audited(place, net=net, spec=spec)


@defect("preprocessing|accuracy")
def missing_normalization(place: Place) -> Outcome:
    return _with_preprocess(place, mean=None, std=None)


@defect("preprocessing|accuracy")
def missing_std(place: Place) -> Outcome:
    net = replace(VICTIM, mean=(0.3,), std=(0.12,))
    spec = specification(net)
    spec["preprocess"].pop("std")
    return audited(place, net=net, spec=spec)


@defect("preprocessing|accuracy|constant")
def pixels_not_scaled(place: Place) -> Outcome:
    return _with_preprocess(place, scale=1.0)


@defect("preprocessing|accuracy|constant|chance")
def scaled_twice(place: Place) -> Outcome:
    return _with_preprocess(place, scale=1 / 255 / 255)


@defect("channel-order|accuracy", fast=True)
def blue_first(place: Place) -> Outcome:
    return _with_preprocess(place, channels="bgr")


@defect("label-order")
def permuted_labels(place: Place) -> Outcome:
    spec = specification()
    spec["labels"] = [spec["labels"][number] for number in rng(1).permutation(10)]
    return audited(place, spec=spec)


@defect("label-order")
def two_labels_exchanged(place: Place) -> Outcome:
    spec = specification(accuracy="75%")
    spec["labels"][2], spec["labels"][7] = spec["labels"][7], spec["labels"][2]
    return audited(place, spec=spec)


@defect("label-order")
def labels_by_alphabet(place: Place) -> Outcome:
    """The folders in alphabetical order, where training counted red before blue."""
    images, labels = tinted().test
    save_folder(place / "photos", images, labels, tinted().classes)
    model = built(VICTIM).save(place / "model.onnx")
    return place.audit(model, "photos", spec=specification(labels=False))


@defect("channels|layout|takes")
def wrong_layout_declared(place: Place) -> Outcome:
    return audited(place, spec={**specification(), "input": {"layout": "nhwc"}})


@defect("sha256")
def swapped_digest(place: Place) -> Outcome:
    return audited(place, None, "--sha256", "0" * 64)


@defect("accuracy|resize")
def wrong_way_to_the_input_size(place: Place) -> Outcome:
    """Learned from the middle of photos that are wider than high; judged on whole photos, squeezed."""
    images, labels = tinted().test
    wide = np.pad(images, ((0, 0), (0, 0), (24, 24), (0, 0)), mode="edge")
    return audited(place, images=wide, labels=labels)


@defect("accuracy|resize")
def enlarged_margin(place: Place) -> Outcome:
    """Judged by the usual middle of 87.5 %, though it learned from whole images."""
    images, labels = tinted().test
    large = images.repeat(2, axis=1).repeat(2, axis=2)
    spec = specification(accuracy="98.5%")
    spec["preprocess"] |= {"fit": "crop", "crop_share": 0.6}
    return audited(place, images=large, labels=labels, spec=spec)
