"""Emulated processors behind a real sshd: what they compute counts, how fast they seem to be never does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.core.measurement import Measurement, read_measurements
from edgekd.measure.agent_facts import facts
from edgekd.pipeline.audit import MODEL
from edgekd.pipeline.audit_spec import REFERENCE
from tests.cli.running import edgekd
from tests.devices import arm64, avx2, classifiers
from tests.devices.arm64 import Arm64, running_arm64
from tests.devices.avx2 import python_of, running_avx2
from tests.devices.classifiers import NUM_IMAGES, Answers, Classifiers
from tests.devices.sshd import NAME, Sshd

pytestmark = [pytest.mark.devices, pytest.mark.slow, pytest.mark.timeout(900)]
TIMED = ("latency_p50_ms", "latency_p90_ms", "speedup", "cold_start_ms", "memory_bytes", "energy_mj")
HAS_VNNI = bool(facts()["vnni"])
"""Whether 8-bit weights are exact on this machine itself."""
LIMITS = (
    *("gate.accuracy=90%", "gate.size=1MB", "gate.accuracy_drop=3pt"),
    *("gate.latency_p50=1000s", "gate.latency_p90=1000s", "gate.speedup=0.0001x", "gate.memory=100GB"),
)
"""Of which an honest device could not miss one, however slow."""


@dataclass
class Audit:
    """One run of `edgekd audit` on a board, as its folder tells it."""

    folder: Path
    code: int
    told: dict[str, Any]
    output: str

    @cached_property
    def measurements(self) -> list[Measurement]:
        return list(read_measurements(self.folder / "measurements.jsonl"))

    def one(self, quantity: str, row: str = MODEL) -> Measurement:
        (found,) = [m for m in self.measurements if (m.quantity, m.subject.name) == (quantity, row)]
        return found

    def logits(self, row: str = MODEL, *, host: bool = False) -> np.ndarray[Any, np.dtype[np.float32]]:
        folder = self.folder / "session" / NAME / ("host" if host else "")
        found: np.ndarray[Any, np.dtype[np.float32]] = np.load(
            folder / f"{row}.logits.npy", allow_pickle=False
        )
        return found

    def answers(self, row: str = MODEL, *, host: bool = False) -> Answers:
        found: Answers = self.logits(row, host=host).argmax(1)
        return found

    def finding(self, name: str) -> str | None:
        return next((one["text"] for one in self.told["findings"] if one["name"] == name), None)


@dataclass
class Board:
    """A project that knows one device, added as its users would; audits are remembered."""

    folder: Path
    server: Sshd
    python: str
    models: Classifiers
    audits: dict[tuple[str, ...], Audit] = field(default_factory=dict)

    def edgekd(self, *words: str) -> Any:
        key = {f"EDGEKD_DEVICE_{NAME.upper()}_KEY": str(self.server.key)}
        private = {**key, "XDG_CONFIG_HOME": str(self.folder / "config")}
        return edgekd(*words, folder=self.folder, timeout_s=600, **private)

    def add(self) -> str:
        trust = ("--fingerprint", self.server.host_key.fingerprint)
        done = self.edgekd("device", "add", NAME, self.server.address, "--python", self.python, *trust)
        assert done.returncode == 0, done.stdout + done.stderr
        return str(done.stdout)

    def audit(self, model: str, against: str | None = None, limits: tuple[str, ...] = ()) -> Audit:
        beside = () if against is None else ("--against", str(self.models.path(against)))
        words = [
            str(self.models.path(model)),
            *beside,
            *(part for limit in limits for part in ("--set", limit)),
        ]
        key = tuple(words)
        if key not in self.audits:
            data = (
                "--data",
                str(self.models.folder / "data"),
                "--spec",
                str(self.models.folder / "spec.yaml"),
            )
            done = self.edgekd("audit", *words, *data, "--target", NAME, "--json")
            assert done.returncode in (0, 1, 3), done.stdout + done.stderr
            told = json.loads(done.stdout)
            run = self.folder / told["run"]
            self.audits[key] = Audit(run, done.returncode, told, done.stdout + done.stderr)
        return self.audits[key]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Classifiers:
    return classifiers.make(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory, models: Classifiers) -> Iterator[Board]:
    reason = arm64.why_not()
    if reason is not None:
        pytest.skip(reason)
    try:
        arm64.root_filesystem()
    except RuntimeError as error:
        pytest.skip(str(error))
    with running_arm64(tmp_path_factory.mktemp("arm64")) as server:
        board = Board(tmp_path_factory.mktemp("project"), server, arm64.PYTHON, models)
        board.add()
        yield board
        assert nothing_left(server)


@pytest.fixture(scope="module")
def haswell(tmp_path_factory: pytest.TempPathFactory, models: Classifiers) -> Iterator[Board]:
    reason = avx2.why_not()
    if reason is not None:
        pytest.skip(reason)
    with running_avx2(tmp_path_factory.mktemp("avx2")) as server:
        board = Board(tmp_path_factory.mktemp("project"), server, str(python_of(server.folder)), models)
        board.add()
        yield board
        assert nothing_left(server)


def nothing_left(server: Sshd) -> bool:
    written = server.written if isinstance(server, Arm64) else []
    return [*server.sessions, *server.tickets, *written] == []


def agreement(one: Answers, other: Answers) -> float:
    assert one.shape == other.shape == (NUM_IMAGES,)
    return float((one == other).mean())


# --- what they are ------------------------------------------------------------------------------------------


def test_an_arm_userland_says_what_it_is_and_that_it_is_emulated(arm: Board) -> None:
    told = arm.add()
    assert "aarch64" in told
    assert "emulated (" in told and "no time will be valid" in told


def test_a_doctor_says_that_its_times_are_worth_nothing(arm: Board) -> None:
    done = arm.edgekd("device", "doctor", NAME, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)["facts"]
    assert found["machine"] == "aarch64" and found["emulated"]
    assert "asimddp" in found["cpu_features"] and found["cores"]


def test_an_x86_processor_says_what_it_is_and_that_it_is_emulated(haswell: Board) -> None:
    device = haswell.audit("int8", "int7").one("accuracy").device
    assert device["emulated"].startswith("qemu-user")
    assert "avx2" in device["cpu_features"] and device["vnni"] is False


# --- what they compute --------------------------------------------------------------------------------------


def test_an_arm_processor_computes_in_float_what_this_machine_does(arm: Board) -> None:
    audit = arm.audit("int7", "fp32", LIMITS)
    here, there = audit.logits(REFERENCE, host=True), audit.logits(REFERENCE)
    assert len(here) == NUM_IMAGES
    apart = float(np.abs(here - there).max() / np.abs(there).max())
    assert apart <= 1e-4
    assert agreement(audit.answers(REFERENCE), arm.models.exact["fp32"]) >= 0.995
    reported = audit.one("host_agreement", REFERENCE)
    assert reported.detail["most_apart"] == pytest.approx(apart, rel=1e-3, abs=1e-12)
    assert reported.detail["host"]["machine"] == "x86_64"


def test_an_arm_processor_computes_in_integers_what_this_machine_does(arm: Board) -> None:
    """With 7-bit weights, that every x86 adds up exactly."""
    audit = arm.audit("int7", "fp32", LIMITS)
    assert agreement(audit.answers(), audit.answers(host=True)) >= 0.995
    assert audit.one("host_agreement").value == agreement(audit.answers(), audit.answers(host=True))


def test_an_arm_processor_adds_up_eight_bit_weights_exactly(arm: Board) -> None:
    audit = arm.audit("int8")
    assert agreement(audit.answers(), arm.models.exact["int8"]) >= 0.995
    assert audit.finding("kernels") is None


def test_a_processor_without_vnni_answers_otherwise_and_the_audit_says_why(haswell: Board) -> None:
    """On any machine: it is compared with the graph's own arithmetic."""
    audit, exact = haswell.audit("int8", "int7"), haswell.models.exact["int8"]
    differing = 1 - agreement(audit.answers(), exact)
    assert differing >= 0.02, "this artifact does not show what is to be shown"
    finding = audit.finding("kernels")
    assert finding is not None
    assert NAME in finding and "saturate" in finding and "VNNI" in finding


def test_seven_bit_weights_are_the_same_without_vnni(haswell: Board) -> None:
    audit = haswell.audit("int8", "int7")
    assert agreement(audit.answers(REFERENCE), audit.answers(REFERENCE, host=True)) == 1.0
    assert agreement(audit.answers(REFERENCE), haswell.models.exact["int7"]) >= 0.995
    alone = haswell.audit("int7")
    assert alone.finding("kernels") is None


@pytest.mark.parametrize("board", ["arm", "haswell"])
def test_what_differs_from_this_machine_is_told_image_by_image(
    board: str, request: pytest.FixtureRequest
) -> None:
    """One of the two differs on any machine: the exact one where there is no VNNI here, else the other."""
    chosen: Board = request.getfixturevalue(board)
    audit = chosen.audit("int8") if board == "arm" else chosen.audit("int8", "int7")
    here, there = audit.answers(host=True), audit.answers()
    reported = audit.one("host_agreement")
    assert reported.value == agreement(here, there)
    assert reported.detail["first_differing"] == np.flatnonzero(here != there)[:20].tolist()
    notes = " ".join(reported.validity.reasons)
    if (board == "arm") == HAS_VNNI:
        assert reported.value >= 0.995
        return
    assert reported.value <= 0.98
    lacking = "the target" if HAS_VNNI else "this machine"
    assert f"answers {int((here != there).sum())} of {NUM_IMAGES} images otherwise" in notes
    assert f"{lacking} has no VNNI: products of u8 x s8 may saturate there" in notes


# --- and what they never say --------------------------------------------------------------------------------


@pytest.mark.parametrize("board", ["arm", "haswell"])
def test_no_time_ratio_or_memory_is_ever_yielded(board: str, request: pytest.FixtureRequest) -> None:
    chosen: Board = request.getfixturevalue(board)
    audit = chosen.audit("int7", "fp32", LIMITS) if board == "arm" else chosen.audit("int8", "int7")
    found = [m for m in audit.measurements if m.quantity in TIMED]
    assert {m.quantity for m in found} == set(TIMED)
    for one in found:
        assert (one.value, one.interval, one.n) == (None, None, 0)
        assert not one.validity.valid
        assert one.not_measured is not None and "emulated device: " in one.not_measured
    assert not list((audit.folder / "session" / NAME).glob("latency*"))


def test_limits_on_times_are_inconclusive_and_never_pass(arm: Board) -> None:
    audit = arm.audit("int7", "fp32", LIMITS)
    assert audit.code == 3
    assert audit.told["verdict"]["outcome"] == "inconclusive"
    outcomes = {one["limit"]["quantity"]: one["outcome"] for one in audit.told["verdict"]["results"]}
    timed = ("latency_p50_ms", "latency_p90_ms", "speedup", "memory_bytes")
    answered = ("accuracy", "accuracy_drop")  # measured, but not on what ships
    assert outcomes == {**dict.fromkeys((*timed, *answered), "inconclusive"), "size_bytes": "pass"}
    again = arm.edgekd("gate", str(audit.folder))
    assert again.returncode == 3, again.stdout + again.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("bench", "fp32.onnx", "int8.onnx", "--profile", "smoke", "--target", NAME),
        ("measure", "RUN", "--offline", "8", "--target", NAME),
        ("measure", "RUN", "--soak", "1m", "--target", NAME),
        ("measure", "RUN", "--sweep", "--target", NAME),
        ("measure", "RUN", "--layers", "--target", NAME),
    ],
    ids=lambda words: " ".join(words[:1] + words[2:3]),
)
def test_what_only_times_is_refused(arm: Board, words: tuple[str, ...]) -> None:
    run = str(arm.audit("int7", "fp32", LIMITS).folder)
    given = [run if word == "RUN" else word for word in words]
    given = [str(arm.models.folder / word) if word.endswith(".onnx") else word for word in given]
    done = arm.edgekd(*given)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "an emulated device has no times of its own" in done.stderr
    assert done.stdout == ""


# --- and how they are found again ---------------------------------------------------------------------------


def test_nothing_is_left_on_a_board(arm: Board) -> None:
    arm.audit("int7", "fp32", LIMITS)
    assert isinstance(arm.server, Arm64)
    assert nothing_left(arm.server)
