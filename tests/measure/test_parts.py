"""Evaluation sets in parts: little on the device at a time, and a lost link costs one part."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime
import pytest

from edgekd.core.errors import ModelError, TargetError
from edgekd.core.measurement import Measurement
from edgekd.measure.device import Device
from edgekd.measure.findings import HostAnswers
from edgekd.measure.host_agreement import host_agreement
from edgekd.measure.parts import GatheredLogits, Images
from edgekd.targets.local import LocalSession, LocalTarget
from edgekd.targets.target import Session
from tests.measure import graphs
from tests.measure.test_runner import ONE, Journal, Setup, find

PARTED = ONE.model_copy(update={"part_images": 20, "retry": False})


class Watched(LocalTarget):
    """This machine as if it were another one, over a link that can be cut."""

    kind: Literal["watched"] = "watched"

    @contextmanager
    def session(self) -> Iterator[Session]:
        with super().session() as inner:
            assert isinstance(inner, LocalSession)
            yield _WatchedSession(self.name, inner.folder)


class _WatchedSession(LocalSession):
    def push(self, local: Path, name: str | None = None) -> str:
        if local.suffix == ".npy":
            if len(LINK.sent) == LINK.lost_after:
                raise TargetError("the link is lost", where=self.target)
            LINK.sent.append(len(np.load(local, mmap_mode="r", allow_pickle=False)))
        pushed = super().push(local, name)
        logits = self.folder / "logits.npy"
        LINK.most_there = max(LINK.most_there, len(set(self.folder.glob("*.npy")) - {logits}))
        return pushed


@dataclass
class Link:
    """What went over it."""

    lost_after: int = 10**6
    sent: list[int] = field(default_factory=list)
    """How many images each file held."""
    most_there: int = 0
    """Most files of images that lay on the device at once."""


LINK = Link()


@dataclass
class Told:
    """A session that lost its target before the third of three parts, and was then finished."""

    setup: Setup
    first: list[str]
    """What the first attempt finished."""
    second: list[str]
    first_link: Link
    second_link: Link
    measured: list[Measurement]

    def copied(self, folder: Path) -> Setup:
        """The finished session, to be measured again without harm to the others."""
        shutil.copytree(self.setup.folder, folder, dirs_exist_ok=True)
        return replace(self.setup, folder=folder, journal=copy.deepcopy(self.setup.journal), events=[])


def attempt(setup: Setup, link: Link) -> list[Measurement]:
    """Answers only: on a device that counts as emulated nothing else is looked at."""
    global LINK
    LINK = link
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKD_EMULATED", "for this test")
        return setup.measure()


def computed(journal: Journal, kind: str) -> list[str]:
    return [key for key in journal.computed if key.split("/")[2] == kind]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, graph: Path, evalset: Path) -> Told:
    folder = tmp_path_factory.mktemp("parts")
    quantized = graphs.quantized_net(folder / "int8.onnx")
    items = [graphs.item("net", graph, evalset), graphs.item("int8", quantized, evalset, "int8")]
    setup = Setup(items, folder, target=Watched(name="box"), protocol=PARTED)
    first, second = Link(lost_after=2), Link()
    with pytest.raises(TargetError, match="the link is lost"):
        attempt(setup, first)
    before = computed(setup.journal, "accuracy")
    measured = attempt(setup, second)
    return Told(setup, before, computed(setup.journal, "accuracy"), first, second, measured)


def test_parts_give_the_answers_of_the_whole_set(told: Told) -> None:
    for item in told.setup.items:
        images = np.load(item.evalset / "images.npy", allow_pickle=False)
        session = onnxruntime.InferenceSession(str(item.path), providers=["CPUExecutionProvider"])
        path = told.setup.folder / "session" / "box" / f"{item.subject.name}.logits.npy"
        expected = session.run(None, {"input": item.preprocess.apply(images)})[0]
        np.testing.assert_allclose(np.load(path, allow_pickle=False), expected, atol=1e-5)
        assert find(told.measured, "accuracy", item.subject.name).n == 60


def test_a_lost_link_costs_one_part(told: Told) -> None:
    """Two rows over three parts: the third part had not arrived."""
    assert len(told.first) == 4
    assert told.second[:4] == told.first
    assert len(set(told.second)) == len(told.second) == 6
    assert told.first_link.sent == [20, 20]
    assert told.second_link.sent == [20]


def test_a_part_is_sent_once_for_all_rows_and_removed_again(told: Told) -> None:
    assert told.first_link.most_there == 1
    assert not list(told.setup.folder.rglob("*.parts"))


def test_a_part_that_was_damaged_here_is_asked_for_again(told: Told, tmp_path: Path) -> None:
    setup, link = told.copied(tmp_path), Link()
    path = tmp_path / "session" / "box" / "net.logits.npy"
    logits = np.load(path, allow_pickle=False)
    changed = logits.copy()
    changed[25] += 1
    np.save(path, changed)
    attempt(setup, link)
    assert link.sent == [20]
    np.testing.assert_array_equal(np.load(path, allow_pickle=False), logits)


def test_the_target_is_compared_with_this_machine_image_by_image(told: Told) -> None:
    found = find(told.measured, "host_agreement", "int8")
    assert found.value == 1.0
    assert found.n == 60
    assert found.interval is not None
    assert found.detail["first_differing"] == []
    assert found.detail["most_apart"] == 0.0
    assert found.detail["host"]["versions"]["runtime_onnx"]["onnxruntime"]
    mine = find(told.measured, "accuracy", "int8").detail["predictions_sha256"]
    assert found.detail["predictions_sha256"] == mine
    assert found.validity.valid
    assert (told.setup.folder / "session" / "box" / "host" / "int8.logits.npy").is_file()


def test_answers_that_differ_are_named_and_noted(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that computes otherwise: two images of 60 got other answers there."""
    setup = told.copied(tmp_path)
    path = tmp_path / "session" / "box" / "net.logits.npy"
    logits = np.load(path, allow_pickle=False)
    for at in (3, 41):
        logits[at] = -logits[at]
    np.save(path, logits)
    monkeypatch.setattr(GatheredLogits, "holds", lambda *_: True)  # as if they had arrived so
    measured = attempt(setup, Link())
    found, accuracy = (find(measured, name, "net") for name in ("host_agreement", "accuracy"))
    assert found.value == pytest.approx(58 / 60)
    assert found.detail["first_differing"] == [3, 41]
    assert found.detail["most_apart"] > 0.1
    for one in (found, accuracy):
        assert "answers 2 of 60 images otherwise than this machine does" in one.validity.reasons
        assert one.validity.valid, "it is the target that counts"


@pytest.mark.parametrize(
    ("host", "device", "where"),
    [
        ({"vnni": True}, {"vnni": False, "machine": "x86_64"}, "the target has no VNNI"),
        (
            {"vnni": False, "machine": "x86_64"},
            {"vnni": True, "machine": "aarch64"},
            "this machine has no VNNI",
        ),
        ({"vnni": True}, {"vnni": False, "machine": "aarch64"}, None),
        ({"vnni": True}, {"vnni": True}, None),
    ],
)
def test_a_missing_vnni_is_named_where_answers_differ(
    host: dict[str, object], device: dict[str, object], where: str | None
) -> None:
    answers = HostAnswers(np.array([0, 1]), 0.5, host)
    (note,) = host_agreement(answers, np.array([0, 0]), device).notes
    assert ("VNNI" in note) == (where is not None)
    assert where is None or where in note


def test_a_row_that_this_machine_cannot_run_is_not_compared_and_spoils_no_other(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = told.copied(tmp_path)
    setup.journal.values = {k: v for k, v in setup.journal.values.items() if "/host/int8" not in k}
    monkeypatch.setattr(Device, "call", _refusing)
    measured = attempt(setup, Link())
    refused = find(measured, "host_agreement", "int8")
    assert refused.not_measured == "this machine cannot run it: no such kernel here"
    assert find(measured, "host_agreement", "net").value == 1.0


def _refusing(device: Device, mode: str, *arguments: object, **named: object) -> dict[str, object]:
    raise ModelError("no such kernel here")


def test_a_set_is_cut_by_bytes_and_by_images_in_whole_batches(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((50, 4, 4, 3), np.uint8))

    def sizes(most_bytes: int, most_images: int, batch: int = 1) -> list[int]:
        limits = {"most_bytes": most_bytes, "most_images": most_images, "batch": batch}
        images = Images(tmp_path / "images.npy", tmp_path, **limits)
        return [part.stop - part.start for part in images.parts]

    assert sizes(10**6, 100) == [50]
    assert sizes(10**6, 20) == [20, 20, 10]
    assert sizes(48 * 30, 100) == [30, 20]
    assert sizes(10**6, 20, batch=8) == [16, 16, 16, 2]
    assert sizes(1, 100, batch=4) == [4] * 12 + [2], "never less than a batch"


def test_images_to_time_with_are_as_many_as_fit(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", pixels)
    few = Images(tmp_path / "images.npy", tmp_path, most_bytes=48 * 7, most_images=2, batch=1)
    np.testing.assert_array_equal(np.load(few.some(), allow_pickle=False), pixels[:7])
    many = Images(tmp_path / "images.npy", tmp_path, most_bytes=10**6, most_images=2, batch=1)
    assert many.some() == tmp_path / "images.npy"


def test_one_file_of_images_lies_here_at_a_time(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((50, 4, 4, 3), np.uint8))
    (tmp_path / "parts").mkdir()
    images = Images(tmp_path / "images.npy", tmp_path / "parts", most_bytes=10**6, most_images=20, batch=1)
    for part in images.parts:
        images.file(part)
        assert len(list((tmp_path / "parts").iterdir())) == 1


def test_parts_that_were_gathered_are_known_by_their_rows(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((5, 4, 4, 3), np.uint8))
    parts = Images(tmp_path / "images.npy", tmp_path, most_bytes=10**6, most_images=3, batch=1).parts
    rows = np.arange(10, dtype=np.float32).reshape(5, 2)
    gathered = GatheredLogits(tmp_path / "net.logits.npy", parts)
    digests = []
    for part in parts:
        with gathered.receiving(part) as path, path.open("wb") as stream:
            np.save(stream, rows[part.start : part.stop])
        digests.append(gathered.digest(part))
    np.testing.assert_array_equal(gathered.finish(), rows)
    again = GatheredLogits(tmp_path / "net.logits.npy", parts)
    assert [again.holds(part, digest) for part, digest in zip(parts, digests, strict=True)] == [True, True]
    assert not again.holds(parts[0], digests[1])
    with again.receiving(parts[0]) as path, path.open("wb") as stream:
        np.save(stream, rows[:3] + 1)
    assert again.holds(parts[1], digests[1]), "the other part stays"
    assert not again.holds(parts[0], digests[0])
