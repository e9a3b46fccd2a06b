"""A model: a network with its weights and its spec, in memory and as two files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from torch import Tensor, nn

from edgekd.core.durable import write_bytes, write_json
from edgekd.core.errors import ModelError
from edgekd.core.spec import ModelSpec, NetworkSpec
from edgekd.networks.catalogue import ONNX, build
from edgekd.networks.code_file import code_path, is_code, split_name
from edgekd.networks.tap import Taps, taps_of
from edgekd.networks.traced import traced
from edgekd.networks.transforms import apply_transforms
from edgekd.networks.weights import load_strict, read_state

SPEC = "spec.json"
WEIGHTS = "weights.safetensors"


@dataclass
class Model:
    """`module` takes what `spec.preprocess` describes and returns logits `[B, len(spec.labels)]`.

    `files_root` is where the relative file of a network is looked up (None: the working folder).
    """

    spec: ModelSpec
    module: nn.Module
    files_root: Path | None = None

    @property
    def taps(self) -> Taps:
        return taps_of(self.module)


def build_model(spec: ModelSpec, *, trust_code: bool = False, files_root: Path | None = None) -> Model:
    """The model of `spec` with the weights its builder made: network, then transforms, no state loaded.

    A network from a file that declares no taps gets those that tracing finds, if it can be traced.
    """
    _check_ends(spec)
    module = build(spec.network, trust_code=trust_code, files_root=files_root)
    if is_code(spec.network.name) and not taps_of(module):
        module = _with_found_taps(module, spec)
    return Model(spec, apply_transforms(module, spec.transforms), files_root)


def save_model(folder: Path, model: Model) -> None:
    """Write `spec.json` and `weights.safetensors` (all parameters and buffers) into `folder`.

    A network that is a Python file or an ONNX graph is copied beside them, and the written spec names the
    copy. Equal models give equal bytes.
    """
    spec = model.spec.model_copy(update={"network": with_files(folder, model)})
    write_bytes(folder / WEIGHTS, safetensors.torch.save(portable(model.module.state_dict())))
    write_json(folder / SPEC, spec.model_dump(mode="json"))


def load_model(folder: Path, *, trust_code: bool = False) -> Model:
    """Read what `save_model` wrote, in evaluation mode.

    Raises `ModelError` for files that are absent, cut short or hostile, and for weights that do not fit.
    """
    model = build_model(read_spec(folder), trust_code=trust_code, files_root=folder)
    path = folder / WEIGHTS
    load_strict(model.module, read_state(path), where=str(path))
    model.module.eval()
    return model


def read_spec(folder: Path) -> ModelSpec:
    """The spec in a model's folder; raises `ModelError` when it is absent or not a spec."""
    path = folder / SPEC
    try:
        return ModelSpec.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"not a readable model spec: {error}", where=str(path)) from error


def portable(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict as safetensors wants it: on the CPU, contiguous, sharing no memory."""
    return {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}


def _with_found_taps(module: nn.Module, spec: ModelSpec) -> nn.Module:
    try:
        network = traced(module, (spec.network.in_channels, *spec.preprocess.size))
    except ModelError:
        return module
    # Tracing drops what a forward pass does not use, but the weights file may hold it.
    return network if network.state_dict().keys() == module.state_dict().keys() else module


def with_files(folder: Path, model: Model) -> NetworkSpec:
    """Copy the files that the network is made from into `folder`; the network as it is named from there.

    A Python file and an ONNX graph with its data are such files; other networks are returned as they are.
    """
    network = model.spec.network
    if is_code(network.name):
        source, (_, function) = code_path(network.name, model.files_root), split_name(network.name)
        _copy(source, folder / source.name)
        return network.model_copy(update={"name": f"{source.name}:{function}"})
    if network.name == ONNX:
        return _with_graph(folder, network, model.files_root)
    return network


def _with_graph(folder: Path, network: NetworkSpec, files_root: Path | None) -> NetworkSpec:
    # Imported here: only ONNX teachers need the runtime.
    from edgekd.networks.onnx_teacher import files_of

    source = (files_root or Path.cwd()) / network.args["file"]
    for path in files_of(source):
        _copy(path, folder / path.resolve().relative_to(source.parent.resolve()))
    return network.model_copy(update={"args": {**network.args, "file": source.name}})


def _copy(source: Path, destination: Path) -> None:
    if source.resolve() != destination.resolve():
        write_bytes(destination, source.read_bytes())


def _check_ends(spec: ModelSpec) -> None:
    network, preprocess = spec.network, spec.preprocess
    if network.num_classes != len(spec.labels):
        raise ModelError(
            f"the network has {network.num_classes} classes and the spec {len(spec.labels)} labels"
        )
    if network.in_channels != preprocess.num_channels:
        raise ModelError(
            f"the network takes {network.in_channels} channels, "
            f"and the preprocessing gives {preprocess.num_channels}"
        )
