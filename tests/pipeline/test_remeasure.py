from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.core.errors import DataError, RecipeError, StoreError, UsageError
from edgekd.core.measurement import Measurement, Subject, read_measurements, write_measurements
from edgekd.core.run_record import MEASUREMENTS, VERDICT
from edgekd.core.verdict import Verdict
from edgekd.pipeline.bundle import Bundle, make_bundle
from edgekd.pipeline.history.series import find_history
from edgekd.pipeline.plan import make_plan
from edgekd.pipeline.recipe import load_recipe
from edgekd.pipeline.remeasure import remeasure
from edgekd.pipeline.run_folder import final_graph, read_record
from edgekd.pipeline.session import graph_digest
from edgekd.pipeline.validation import check_recipe
from edgekd.store.store import Store
from tests.measure import graphs
from tests.pipeline.interrupting import Interrupted, counting
from tests.pipeline.small_run import STARTED, make_run


def _silent(event: Mapping[str, Any]) -> None:
    pass


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def measured(store: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Measurement]]:
    """A run's folder after `edgekd measure` and what that returned; it had numbers of two targets before."""
    folder = make_run(store, tmp_path_factory.mktemp("work"))
    graph = final_graph(read_record(folder), folder)
    subject = Subject(name="distilled", digest=graph_digest(graph))
    before = [
        Measurement(
            quantity="latency_p50_ms", unit="ms", value=99.0, subject=subject, target=target, taken_at=STARTED
        )
        for target in ("local", "pi5")
    ]
    write_measurements(folder / MEASUREMENTS, before)
    return folder, remeasure(store, "small", ["local"], None, None, _silent)


@pytest.fixture(scope="module")
def bundle(measured: tuple[Path, list[Measurement]], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(measured[0], tmp_path_factory.mktemp("bundles") / "bundle")


def test_every_row_of_the_run_is_measured(measured: tuple[Path, list[Measurement]]) -> None:
    quantities = {(m.subject.name, m.quantity) for m in measured[1]}
    for row in ("teacher", "distilled"):
        for quantity in ("accuracy", "latency_p50_ms", "size_bytes", "memory_bytes", "speedup"):
            assert (row, quantity) in quantities


def test_measurements_on_the_measured_targets_are_replaced_and_others_stay(
    measured: tuple[Path, list[Measurement]],
) -> None:
    folder, new = measured
    stored = read_measurements(folder / MEASUREMENTS)
    assert [m for m in stored if m.target == "local"] == new
    assert [m.value for m in stored if m.target == "pi5"] == [99.0]


def test_the_session_is_appended_to_the_history(
    store: Store, measured: tuple[Path, list[Measurement]]
) -> None:
    (entry,) = find_history(store, "small").entries
    assert (entry.kind, entry.run_id, entry.final) == ("measure", measured[0].name, "distilled")
    assert [kept.value for kept in entry.measurements] == [m.value for m in measured[1]]
    assert set(entry.answers) == {"teacher", "distilled"}


def test_the_verdict_is_written_anew(measured: tuple[Path, list[Measurement]]) -> None:
    verdict = Verdict.model_validate_json((measured[0] / VERDICT).read_bytes())
    assert verdict.outcome == "pass"


def test_the_record_says_what_was_not_measured(measured: tuple[Path, list[Measurement]]) -> None:
    missing = {m.quantity for m in measured[1] if m.not_measured}
    assert {text.partition(":")[0] for text in read_record(measured[0]).not_measured} == missing


def _recipe(folder: Path, classes: tuple[str, ...]) -> Path:
    """A recipe over 80 images in an .npz, half of them for testing."""
    images = np.random.default_rng(0).integers(0, 256, (80, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(80) % len(classes)
    np.savez(folder / "data.npz", x_train=images, y_train=labels, classes=np.array(classes))
    data = f"{{source: arrays, file: {folder / 'data.npz'}, test: 0.5}}"
    recipe = folder / "recipe.yaml"
    recipe.write_text(f"data: {data}\nsteps: [export]\n")
    return recipe


def test_a_bundle_is_measured_on_the_test_data_of_a_recipe_and_stays_as_it_is(
    store: Store, bundle: Bundle, tmp_path: Path
) -> None:
    recipe = _recipe(tmp_path, graphs.CLASSES)
    found = remeasure(store, str(bundle.folder), None, "smoke", str(recipe), _silent)
    accuracy = next(m for m in found if m.quantity == "accuracy")
    assert (accuracy.n, accuracy.subject.digest) == (40, bundle.digest)
    bundle.verify()


def test_data_of_other_classes_is_refused_for_a_bundle(store: Store, bundle: Bundle, tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, ("a", "b", "c", "other"))
    with pytest.raises(DataError, match="are not the bundle's"):
        remeasure(store, str(bundle.folder), None, "smoke", str(recipe), _silent)


def test_a_bundle_that_knows_some_of_the_classes_is_measured_by_their_names(
    store: Store, bundle: Bundle, tmp_path: Path
) -> None:
    recipe = _recipe(tmp_path, ("z", *reversed(graphs.CLASSES)))
    found = remeasure(store, str(bundle.folder), None, "smoke", str(recipe), _silent)
    recalls = next(m for m in found if m.quantity == "macro_recall").detail["per_class"]
    assert {name: recall["n"] for name, recall in recalls.items()} == dict.fromkeys("zdcba", 8)
    assert recalls["z"]["correct"] == 0
    accuracy = next(m for m in found if m.quantity == "accuracy")
    assert any("knows 4 of 5 classes" in reason for reason in accuracy.validity.reasons)


def test_a_release_of_other_classes_is_refused_before_the_run(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        f"data: {{source: digits}}\nteacher: {{network: resnet_cifar}}\nsteps: [teacher, export]\n"
        f"gate: {{release: {bundle.folder}}}\n"
    )
    with pytest.raises(RecipeError, match=r"gate\.release: its class `a` is not among the 10 of the data"):
        check_recipe(make_plan(load_recipe(str(tmp_path / "r.yaml"))))


def test_a_bundle_without_images_says_how_to_give_some(store: Store, bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="--evalset FOLDER"):
        remeasure(store, str(bundle.folder), None, None, None, _silent)


def test_an_evaluation_set_without_labels_is_refused(store: Store, bundle: Bundle, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(DataError, match=r"lacks labels\.npy"):
        remeasure(store, str(bundle.folder), None, None, str(tmp_path), _silent)


@pytest.mark.parametrize(
    ("targets", "protocol", "message"),
    [(["pi6"], None, "`pi6` is not a target"), (None, "quik", "`quik` is not a measuring profile")],
)
def test_unknown_names_are_refused_before_anything_is_measured(
    store: Store,
    measured: tuple[Path, list[Measurement]],
    targets: list[str] | None,
    protocol: str | None,
    message: str,
) -> None:
    before = (measured[0] / MEASUREMENTS).read_bytes()
    with pytest.raises(UsageError, match=message):
        remeasure(store, str(measured[0]), targets, protocol, None, _silent)
    assert (measured[0] / MEASUREMENTS).read_bytes() == before


def test_a_changed_artifact_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    folder = make_run(store, tmp_path)
    graph = folder / "steps" / "01-export-teacher" / "model.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    with pytest.raises(StoreError, match="does not match its digest"):
        remeasure(store, str(folder), None, None, None, _silent)
    assert not (folder / MEASUREMENTS).exists()


def _asked(store: Store, what: str, evalset: Path | None, stop_at: int | None = None) -> Counter[str]:
    """What the agent was asked by one `edgekd measure`, ended before the question `stop_at`."""
    asked: Counter[str] = Counter()
    with pytest.MonkeyPatch.context() as patch:
        counting(patch, asked, stop_at)
        try:
            remeasure(store, what, ["local"], "smoke", str(evalset) if evalset else None, _silent)
        except Interrupted:
            assert stop_at is not None
    return asked


@pytest.mark.runs
@pytest.mark.parametrize("kind", ["run", "bundle"])
def test_interrupted_it_goes_on_and_at_its_end_it_begins_anew(
    kind: str, bundle: Bundle, tmp_path: Path
) -> None:
    store, evalset = Store(tmp_path / "store"), graphs.evaluation_set(tmp_path / "images")
    what, images = ("small", None) if kind == "run" else (str(bundle.folder), evalset)
    make_run(store, tmp_path / "work")
    whole = _asked(store, what, images)
    assert _asked(store, what, images, stop_at=3).total() == 3
    assert _asked(store, what, images).total() == whole.total() - 3
    assert _asked(store, what, images) == whole


def test_a_session_is_not_continued_on_other_images(bundle: Bundle, tmp_path: Path) -> None:
    store, evalset = Store(tmp_path / "store"), graphs.evaluation_set(tmp_path / "images")
    whole = _asked(store, str(bundle.folder), evalset)
    assert _asked(store, str(bundle.folder), evalset, stop_at=3).total() == 3
    graphs.evaluation_set(evalset, seed=1)
    assert _asked(store, str(bundle.folder), evalset) == whole
