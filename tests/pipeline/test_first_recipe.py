from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision  # noqa: F401 - here, because importing it sets TORCHINDUCTOR_CACHE_DIR
import yaml

from edgekd.core.errors import DataError, ModelError, RecipeError, UsageError
from edgekd.core.preprocess import Preprocess
from edgekd.core.spec import ModelSpec, NetworkSpec
from edgekd.networks.catalogue import build
from edgekd.networks.model import Model, save_model
from edgekd.pipeline.first_recipe import (
    drop_limit_points,
    recipe_name,
    write_checked,
    write_first_recipe,
)
from edgekd.pipeline.plan import make_plan
from edgekd.pipeline.recipe import load_recipe
from edgekd.pipeline.teacher_look import onnx_ends, parse_network
from tests.measure import graphs


def _arrays(folder: Path, classes: tuple[str, ...] = graphs.CLASSES, channels: int = 3) -> str:
    """An .npz of 120 images of 8x8 pixels."""
    images = np.random.default_rng(0).integers(0, 256, (120, 8, 8, channels), dtype=np.uint8)
    labels = np.arange(120) % len(classes)
    path = folder / "data.npz"
    np.savez(path, x_train=images, y_train=labels, classes=np.array(classes))
    return str(path)


def _weights(folder: Path, name: str, num_classes: int = 4, in_channels: int = 3, **args: object) -> Path:
    module = build(NetworkSpec(name=name, args=args, num_classes=num_classes, in_channels=in_channels))
    path = folder / "teacher.safetensors"
    safetensors.torch.save_file(module.state_dict(), path)
    return path


def _teacher(recipe: Path) -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load(recipe.read_text())["teacher"]
    return found


def test_without_a_teacher_the_recipe_trains_one_and_plans(tmp_path: Path) -> None:
    recipe = tmp_path / "first.yaml"
    lines = write_first_recipe(recipe, _arrays(tmp_path), None, None, ["local"])
    plan = make_plan(load_recipe(str(recipe)))
    assert [step.stage for step in plan.steps if not step.control] == [
        *("teacher", "latency", "select", "distill", "quantize", "export")
    ]
    assert any("4 classes (a, b, c, d)" in line for line in lines)
    assert any(f"edgekd run {recipe}" in line for line in lines)


def test_the_recipe_is_commented(tmp_path: Path) -> None:
    recipe = tmp_path / "first.yaml"
    write_first_recipe(recipe, _arrays(tmp_path), None, None, ["local"])
    assert sum("#" in line for line in recipe.read_text().splitlines()) >= 8


@pytest.mark.parametrize(
    "args", [{"depth": 20}, {"depth": 14, "shortcut": "B"}, {"depth": 8, "base_channels": 8}]
)
def test_a_cifar_resnet_is_known_by_its_keys(tmp_path: Path, args: dict[str, object]) -> None:
    weights, recipe = _weights(tmp_path, "resnet_cifar", **args), tmp_path / "first.yaml"
    write_first_recipe(recipe, _arrays(tmp_path), str(weights), None, ["local"])
    assert _teacher(recipe)["network"] == "resnet_cifar"
    assert _teacher(recipe)["args"] == args


def test_a_torchvision_model_is_known_by_its_keys(tmp_path: Path) -> None:
    weights, recipe = _weights(tmp_path, "torchvision/shufflenet_v2_x0_5"), tmp_path / "first.yaml"
    write_first_recipe(recipe, _arrays(tmp_path), str(weights), None, ["local"])
    assert _teacher(recipe)["torchvision"] == "shufflenet_v2_x0_5"


def test_a_model_that_edgekd_saved_is_known_by_the_spec_beside_it(tmp_path: Path) -> None:
    network = NetworkSpec(name="wrn", args={"depth": 10, "width": 1}, num_classes=4, in_channels=3)
    preprocess = Preprocess(size=(8, 8), mean=(0.1, 0.2, 0.3), std=(1, 1, 1))
    spec = ModelSpec(network=network, preprocess=preprocess, labels=graphs.CLASSES)
    save_model(tmp_path, Model(spec, build(network)))
    recipe = tmp_path / "first.yaml"
    write_first_recipe(recipe, _arrays(tmp_path), str(tmp_path / "weights.safetensors"), None, ["local"])
    assert _teacher(recipe)["network"] == "wrn"
    assert _teacher(recipe)["preprocess"]["mean"] == [0.1, 0.2, 0.3]  # type: ignore[index]


def test_a_torch_file_with_a_key_prefix_is_read(tmp_path: Path) -> None:
    module = build(NetworkSpec(name="resnet_cifar", args={"depth": 8}, num_classes=4, in_channels=3))
    state = {f"module.{key}": value for key, value in module.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "teacher.th")
    recipe = tmp_path / "first.yaml"
    write_first_recipe(recipe, _arrays(tmp_path), str(tmp_path / "teacher.th"), None, ["local"])
    assert _teacher(recipe)["args"] == {"depth": 8}


def test_an_onnx_teacher_is_looked_into(tmp_path: Path) -> None:
    graph, recipe = graphs.conv_net(tmp_path / "teacher.onnx"), tmp_path / "first.yaml"
    assert onnx_ends(graph) == (3, (8, 8), 4)
    write_first_recipe(recipe, _arrays(tmp_path), str(graph), None, ["local"])
    assert _teacher(recipe) == {"onnx": str(graph)}


def test_an_onnx_teacher_for_color_gets_a_preprocessing_for_gray_data(tmp_path: Path) -> None:
    graph, recipe = graphs.conv_net(tmp_path / "teacher.onnx"), tmp_path / "first.yaml"
    write_first_recipe(recipe, _arrays(tmp_path, channels=1), str(graph), None, ["local"])
    assert len(_teacher(recipe)["preprocess"]["mean"]) == 3  # type: ignore[index]


def test_a_teacher_of_another_number_of_classes_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    weights = _weights(tmp_path, "resnet_cifar", num_classes=7, depth=8)
    with pytest.raises(ModelError, match="knows 7 classes and the data has 4"):
        write_first_recipe(tmp_path / "first.yaml", _arrays(tmp_path), str(weights), None, ["local"])
    assert not list(tmp_path.glob("*first*"))


def test_unknown_weights_ask_for_the_network(tmp_path: Path) -> None:
    weights = _weights(tmp_path, "mobilenet_v2")
    data = _arrays(tmp_path)
    with pytest.raises(ModelError, match="--network"):
        write_first_recipe(tmp_path / "first.yaml", data, str(weights), None, ["local"])
    write_first_recipe(tmp_path / "first.yaml", data, str(weights), "mobilenet_v2", ["local"])
    assert _teacher(tmp_path / "first.yaml")["network"] == "mobilenet_v2"


def test_a_network_that_the_weights_do_not_fit_is_refused(tmp_path: Path) -> None:
    weights = _weights(tmp_path, "resnet_cifar", depth=8)
    with pytest.raises(ModelError, match="do not fit"):
        write_first_recipe(
            tmp_path / "first.yaml", _arrays(tmp_path), str(weights), "resnet_cifar:depth=20", ["local"]
        )


def test_damaged_and_hostile_files_are_refused(tmp_path: Path) -> None:
    whole = _weights(tmp_path, "resnet_cifar", depth=8)
    cut, hostile = tmp_path / "cut.safetensors", tmp_path / "hostile.pt"
    cut.write_bytes(whole.read_bytes()[:1000])
    hostile.write_bytes(pickle.dumps(Path("anything but weights")))
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\x00not onnx")
    for file in (cut, hostile, broken):
        with pytest.raises(ModelError, match=file.name):
            write_first_recipe(tmp_path / "first.yaml", _arrays(tmp_path), str(file), None, ["local"])


@pytest.mark.parametrize(
    ("teacher", "network", "target", "message"),
    [
        ("nothing.safetensors", None, "local", "no such file"),
        ("nothing", None, "local", "neither a file nor a shipped model"),
        ("torchvision/resnet19", None, "local", "`resnet19` is not a torchvision classifier"),
        (None, "resnet_cifar:56", "local", "not of the form key=value"),
        (None, "net.py:make", "local", "runs code"),
        (None, None, "pi6", "`pi6` is not a target"),
    ],
)
def test_what_cannot_be_used_is_named(
    tmp_path: Path, teacher: str | None, network: str | None, target: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        write_first_recipe(tmp_path / "first.yaml", _arrays(tmp_path), teacher, network, [target])


def test_an_existing_file_is_kept_unless_forced(tmp_path: Path) -> None:
    recipe = tmp_path / "first.yaml"
    recipe.write_text("mine: true\n")
    with pytest.raises(UsageError, match="exists already"):
        write_first_recipe(recipe, _arrays(tmp_path), None, None, ["local"])
    assert recipe.read_text() == "mine: true\n"
    write_first_recipe(recipe, _arrays(tmp_path), None, None, ["local"], force=True)
    assert "mine" not in recipe.read_text()


def test_an_unknown_network_is_refused_with_the_choices(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="close names: resnet_cifar"):
        write_first_recipe(tmp_path / "first.yaml", _arrays(tmp_path), None, "resnet_sifar", ["local"])


def test_a_recipe_that_does_not_validate_is_not_written_and_names_its_file(tmp_path: Path) -> None:
    recipe = tmp_path / "first.yaml"
    with pytest.raises(RecipeError, match=r"first\.yaml:1: sed") as caught:
        write_checked(recipe, "sed: 1\nsteps: [teacher: {network: resnet_cifar}, export]\n")
    assert ".tmp" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_class_names_cannot_break_out_of_a_comment(tmp_path: Path) -> None:
    data = _arrays(tmp_path, ("a\nseed: 7", "b", "c", "d"))
    recipe = tmp_path / "first.yaml"
    with pytest.raises(DataError, match="cannot be the name of a class"):
        write_first_recipe(recipe, data, None, None, ["local"])
    assert not recipe.exists()


@pytest.mark.parametrize(
    ("file", "name"), [("My Photos!.yaml", "my-photos"), ("2026.yaml", "recipe-2026"), ("a_b.yml", "a_b")]
)
def test_the_recipe_is_called_as_its_file(file: str, name: str) -> None:
    assert recipe_name(Path(file)) == name


def test_the_limit_on_the_drop_can_be_decided_with_the_test_data() -> None:
    half_width = 1.96 * np.sqrt(0.03 / 719) * 100
    assert drop_limit_points(719) >= 1.5 * half_width
    assert drop_limit_points(1_000_000) == 1.0


def test_network_arguments_keep_their_types() -> None:
    assert parse_network("wrn:depth=16,width=0.5,shortcut=A") == (
        "wrn",
        {"depth": 16, "width": 0.5, "shortcut": "A"},
    )
