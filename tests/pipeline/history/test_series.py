from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, get_args

import pytest

from edgekd.core.errors import UsageError
from edgekd.core.measurement import Quantity
from edgekd.pipeline.history.record import Entry
from edgekd.pipeline.history.series import Series, change, exit_code, find_history, series_of
from edgekd.store.history import ARTIFACTS, RECIPES, HistoryLog
from edgekd.store.store import Store
from tests.pipeline.history.cases import (
    DEVICE,
    STEADY,
    accuracy,
    answers,
    kept,
    p50,
    point,
    session,
    speedup,
    subject,
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def write(store: Store, *entries: Entry) -> None:
    for entry in entries:
        kind, name = (RECIPES, entry.recipe) if entry.recipe else (ARTIFACTS, "foreign")
        HistoryLog(store).append(kind, name, json.loads(entry.model_dump_json()))


def day(letter: str, number: int, size: float = 1000.0, **changes: Any) -> Entry:
    return session(letter, kept("size_bytes", size), day=number, **changes)


def outcomes(series: list[Series]) -> list[list[str | None]]:
    return [[step.change.outcome if step.change else None for step in one.steps] for one in series]


def test_sessions_stand_in_the_order_of_time_however_they_were_written(store: Store) -> None:
    write(store, day("b", 2), day("c", 3, taken_at="2026-11-02T23:30:00-05:00"), day("a", 1))
    assert [entry.subjects["quantized"].digest[0] for entry in find_history(store, "tiny").entries] == [
        *"abc"
    ]


def test_a_recipes_history_is_that_of_what_ships(store: Store) -> None:
    teacher = kept("size_bytes", 5.0, subject="teacher")
    write(
        store,
        *(session(letter, teacher, kept("size_bytes", 2.0), day=n) for n, letter in ((1, "a"), (2, "b"))),
    )
    history = find_history(store, "tiny")
    (ships,) = series_of(history)
    assert [step.point.kept.value for step in ships.steps] == [2.0, 2.0]
    (other,) = series_of(history, rows=["teacher"])
    assert (other.row, [step.point.kept.value for step in other.steps]) == ("teacher", [5.0, 5.0])


def test_an_artifacts_history_holds_every_session_that_measured_it(store: Store) -> None:
    bench = session(
        "c", kept("size_bytes", 7.0, subject="old"), day=3, others=[subject("a", "old")], recipe=None
    )
    write(store, day("a", 1), day("b", 2), bench)
    for what in ("aaaaaa", "a" * 64):
        (series,) = series_of(find_history(store, what))
        assert [step.point.kept.value for step in series.steps] == [1000.0, 7.0]


def test_an_artifact_is_found_by_its_file(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"graph")
    with pytest.raises(UsageError, match="never measured with this store"):
        find_history(store, str(path))

    digest = hashlib.sha256(b"graph").hexdigest()
    one = day("a", 1).model_copy(
        update={"subjects": {"quantized": subject("a").model_copy(update={"digest": digest})}}
    )
    write(store, one)
    assert find_history(store, str(path)).digest == digest


def test_without_a_name_it_is_the_recipe_measured_last(store: Store) -> None:
    with pytest.raises(UsageError, match="no recipe has been measured yet"):
        find_history(store, None)
    write(store, day("a", 1), day("b", 2, recipe="tiny.ablation"))
    assert find_history(store, None).title == "tiny"


@pytest.mark.parametrize("what", ["tinyy", "no/such/file.onnx", "abc"])
def test_an_unknown_name_tells_the_choices(store: Store, what: str) -> None:
    write(store, day("a", 1))
    with pytest.raises(UsageError, match="choices: tiny"):
        find_history(store, what)


def test_the_beginning_of_several_digests_is_refused(store: Store) -> None:
    digests = ["abcdef" + "0" * 58, "abcdef" + "1" * 58]
    for number, digest in enumerate(digests, 1):
        one = subject("a").model_copy(update={"digest": digest})
        write(store, day("a", number).model_copy(update={"id": str(number), "subjects": {"quantized": one}}))
    with pytest.raises(UsageError, match="several artifacts begin with `abcdef`"):
        find_history(store, "abcdef")


def test_entries_of_another_version_are_left_out_and_said(store: Store) -> None:
    odd = {"id": "x", "schema_version": 99, "what": "else"}
    write(store, day("a", 1))
    HistoryLog(store).append(RECIPES, "tiny", odd)
    unnamed = json.loads(day("b", 2).model_dump_json()) | {"id": "y", "subjects": {}}
    HistoryLog(store).append(RECIPES, "tiny", unnamed)
    history = find_history(store, "tiny")
    assert len(history.entries) == 1
    assert history.problems == ("2 sessions were written by another edgekd or damaged, and left out",)


def test_every_measurement_is_compared_with_the_one_before_on_its_target(store: Store) -> None:
    write(store, day("a", 1), day("b", 2, 900), day("c", 2, 5, target="local"), day("d", 3, 950))
    series = series_of(find_history(store, "tiny"))
    assert {one.target: found for one, found in zip(series, outcomes(series), strict=True)} == {
        "pi5": [None, "better", "worse"],
        "local": [None],
    }


def test_changes_of_the_device_stand_beside_the_measurement(store: Store) -> None:
    write(store, day("a", 1), day("b", 2, device={**DEVICE, "kernel": "6.6.40"}))
    (series,) = series_of(find_history(store, "tiny"))
    assert [step.device for step in series.steps] == [(), ("kernel 6.6.31 -> 6.6.40",)]


def test_the_newest_sessions_alone_may_be_asked_for(store: Store) -> None:
    write(
        store, *(day(letter, number) for number, letter in enumerate("abc", 1)), day("d", 1, target="local")
    )
    found = series_of(find_history(store, "tiny"), last=2)
    assert {one.target: len(one.steps) for one in found} == {"pi5": 2, "local": 1}


def test_a_quantity_is_a_series_for_each_artifact_it_is_compared_with(store: Store) -> None:
    others = [subject("7", "teacher"), subject("6", "student")]
    one = session("a", speedup(STEADY), speedup(STEADY, "student"), p50(), others=others)
    write(store, one)
    assert [s.against for s in series_of(find_history(store, "tiny"), quantities=["speedup"])] == [
        "teacher",
        "student",
    ]
    assert len(series_of(find_history(store, "tiny"), quantities=["all"])) == 3


def test_what_was_never_measured_has_no_series(store: Store) -> None:
    write(store, session("a", kept("energy_mj", None, not_measured="no counter"), kept("size_bytes", 1.0)))
    assert [s.quantity for s in series_of(find_history(store, "tiny"), quantities=["all"])] == ["size_bytes"]


@pytest.mark.parametrize(
    ("asked", "choice"),
    [
        ({"quantities": ["latency"]}, "latency_p50_ms"),
        ({"targets": ["pi6"]}, "pi5"),
        ({"rows": ["x"]}, "teacher"),
    ],
)
def test_unknown_selections_tell_the_choices(store: Store, asked: dict[str, list[str]], choice: str) -> None:
    write(store, day("a", 1))
    with pytest.raises(UsageError, match=rf"is not a .*\n  choices: .*{choice}"):
        series_of(find_history(store, "tiny"), **asked)  # type: ignore[arg-type]


@pytest.mark.parametrize("quantity", get_args(Quantity))
def test_every_quantity_has_a_rule(quantity: Quantity) -> None:
    before, after = (session(letter, kept(quantity, 2.0), day=n) for n, letter in ((1, "a"), (2, "b")))
    assert change(point(before, quantity), point(after, quantity)).why


# --- for CI -------------------------------------------------------------------------------------------------


def code(store: Store, *entries: Entry) -> int:
    write(store, *entries)
    return exit_code(series_of(find_history(store, "tiny")))


def test_a_worse_newest_measurement_is_code_1(store: Store) -> None:
    assert code(store, day("a", 1), day("b", 2, 1001)) == 1


def test_a_regression_that_was_made_good_is_code_0(store: Store) -> None:
    assert code(store, day("a", 1), day("b", 2, 1001), day("c", 3, 1000)) == 0


def test_nothing_to_compare_with_is_code_3(store: Store) -> None:
    assert code(store, day("a", 1)) == 3


def test_what_cannot_be_compared_is_code_3(store: Store) -> None:
    assert code(store, session("a", p50()), session("b", p50(), day=2)) == 3


def test_a_certain_regression_outweighs_what_cannot_be_told(store: Store) -> None:
    first, second = (
        session(letter, p50(), accuracy(wrong), day=n, answers={"quantized": answers(range(wrong))})
        for n, letter, wrong in ((1, "a", 10), (2, "b", 60))
    )
    assert code(store, first, second) == 1
