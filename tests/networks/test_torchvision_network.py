"""Published weights: from torch's cache or the net, adapted, or a clear error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision

from edgekd.core.errors import ModelError
from edgekd.core.spec import NetworkSpec
from edgekd.networks.catalogue import build
from edgekd.networks.torchvision_network import load_trunk, published

MODEL = "squeezenet1_1"


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    """An empty folder in place of torch's download cache."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    yield tmp_path / "checkpoints"
    torch.hub.set_dir(before)


@pytest.fixture
def original(cache: Path) -> torch.nn.Module:
    """A network whose weights lie in the cache, where a download puts them."""
    network = torchvision.models.get_model(MODEL, weights=None).eval()
    name = Path(torchvision.models.get_model_weights(MODEL)["DEFAULT"].url).name
    torch.save(network.state_dict(), cache / name)
    return network


def network(num_classes: int, in_channels: int = 3) -> torch.nn.Module:
    spec = NetworkSpec(name=f"torchvision/{MODEL}", num_classes=num_classes, in_channels=in_channels)
    return build(spec).eval()


def test_published_weights_give_the_published_logits(original: torch.nn.Module) -> None:
    found, module, x = published(MODEL), network(1000), torch.rand(1, 3, 64, 64)
    module.load_state_dict(found.state, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(module(x), original(x))
    assert len(found.labels) == 1000
    assert found.preprocess.size == (224, 224)
    assert found.preprocess.mean == (0.485, 0.456, 0.406)


def test_with_other_classes_all_but_the_classifier_is_loaded(original: torch.nn.Module) -> None:
    found, module = published(MODEL, num_classes=5), network(5)
    load_trunk(module, found.state)
    assert torch.equal(module.state_dict()["features.0.weight"], original.state_dict()["features.0.weight"])
    assert not any(key.startswith("classifier") for key in found.state)


def test_with_one_channel_a_gray_image_gives_what_it_gave_in_color(original: torch.nn.Module) -> None:
    found, module, x = published(MODEL, in_channels=1), network(1000, 1), torch.rand(1, 1, 64, 64)
    module.load_state_dict(found.state, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(module(x), original(x.expand(-1, 3, -1, -1)), atol=1e-4, rtol=1e-4)


def test_a_trunk_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"do not fit: features\.0\.weight"):
        load_trunk(network(5), {})


def test_without_a_network_connection_it_says_what_to_do(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match=r"cannot download .*\n  fix: download the file elsewhere"):
        published(MODEL)


def test_an_unknown_set_of_weights_lists_those_there_are() -> None:
    with pytest.raises(ModelError, match="choices: IMAGENET1K_V1"):
        published(MODEL, name="V9")
