"""The roles of a program as live networks: who plays each one, with which initial weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgekd.core.errors import UsageError
from edgekd.core.seed import derive
from edgekd.core.spec import NetworkSpec
from edgekd.distill.heads import with_heads
from edgekd.distill.participant import Participant
from edgekd.distill.program import (
    IMAGES,
    LOGITS,
    Architecture,
    Built,
    CopyOf,
    Derived,
    Fresh,
    Given,
    ModuleBuilder,
    Program,
    Shapes,
)
from edgekd.networks.catalogue import build
from edgekd.networks.initialize import init_weights
from edgekd.networks.tap import taps_of

ImageShape = tuple[int, int, int]
"""(C, H, W) of the batches."""


@dataclass(frozen=True)
class Cast:
    """Live networks: roles by name, and the adapters of terms as `adapters[term][name]`."""

    roles: Mapping[str, Participant]
    adapters: Mapping[str, Mapping[str, nn.Module]]
    trainable: Mapping[str, frozenset[str]]
    """Role -> parameters that may learn: those handed over with `requires_grad`."""


def assemble(program: Program, given: Mapping[str, Participant], image_shape: ImageShape, seed: int) -> Cast:
    """Bring every role of the program to life; modules in `given` are used as they are, not copied.

    Raises `UsageError` for a role that nothing plays.
    """
    roles: dict[str, Participant] = {}
    networks = [name for name in program.roles if program.takes_images(name)]
    for name in networks:
        _play(program, given, name, roles, seed, image_shape)
    shapes = {IMAGES: image_shape, **tap_shapes(roles, image_shape)}
    device = roles[networks[0]].device
    for name, origin in program.roles.items():
        if isinstance(origin, Built):
            roles[name] = Participant(_built(origin.builder, shapes, derive(seed, "role", name), device))
    for name in program.roles:
        _play(program, given, name, roles, seed, image_shape)
    return Cast(roles, _adapters(program, shapes, seed, device), _trainable(roles))


def _trainable(roles: Mapping[str, Participant]) -> dict[str, frozenset[str]]:
    return {
        name: frozenset(key for key, value in role.module.named_parameters() if value.requires_grad)
        for name, role in roles.items()
    }


def _play(
    program: Program,
    given: Mapping[str, Participant],
    name: str,
    roles: dict[str, Participant],
    seed: int,
    image_shape: ImageShape,
) -> None:
    if name in roles:
        return
    match program.roles[name]:
        case Given():
            roles[name] = _lookup(given, name)
        case CopyOf(role=other):
            _play(program, given, other, roles, seed, image_shape)
            roles[name] = roles[other].copy()
        case Fresh(like=other):
            _play(program, given, other, roles, seed, image_shape)
            roles[name] = roles[other].copy()
            init_weights(roles[name].module, seed, name)
        case Derived(of=other) as derived:
            _play(program, given, other, roles, seed, image_shape)
            roles[name] = _derived(derived, name, roles[other], seed, image_shape)
        case Architecture() as wanted:
            model_for = _lookup(given, program.deploy.network)
            roles[name] = _of_catalogue(wanted, model_for, image_shape)
            init_weights(roles[name].module, seed, name)
            roles[name].module.to(model_for.device)
        case Built():
            pass


def _derived(
    derived: Derived, name: str, source: Participant, seed: int, image_shape: ImageShape
) -> Participant:
    with _drawing_from(derive(seed, "role", name)):
        changed = derived.transform(source.copy())
    changed.module.to(source.device)
    if not derived.heads:
        return changed
    shapes = tap_shapes({name: changed}, image_shape)
    modules = {
        key: _built(head.builder, shapes, derive(seed, "role", name, key), source.device)
        for key, head in derived.heads.items()
    }
    return with_heads(changed, derived.heads, modules)


def _of_catalogue(wanted: Architecture, like: Participant, image_shape: ImageShape) -> Participant:
    """The named network with the input and the classes of `like`. Raises `ModelError` for a wrong name."""
    with torch.no_grad():
        num_channels = like.normalize(torch.zeros(1, *image_shape, device=like.device)).shape[1]
    num_classes = _probe(like, image_shape)[LOGITS].shape[1]
    spec = NetworkSpec(
        name=wanted.network, args=dict(wanted.args), num_classes=num_classes, in_channels=num_channels
    )
    module = build(spec)
    return Participant(module, copy.deepcopy(like.normalize), taps_of(module), like.labels)


def _lookup(given: Mapping[str, Participant], name: str) -> Participant:
    if name not in given:
        raise UsageError(
            f"the method needs a network for its role `{name}`",
            choices=given,
            fix=f"give the step an input that plays `{name}`",
        )
    return given[name]


@contextmanager
def _drawing_from(seed: int) -> Iterator[None]:
    """Weights made inside depend on `seed` only; the global random state is as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _built(builder: ModuleBuilder, shapes: Shapes, seed: int, device: torch.device) -> nn.Module:
    with _drawing_from(seed):
        return builder(shapes).to(device)


def _adapters(
    program: Program, shapes: Shapes, seed: int, device: torch.device
) -> dict[str, dict[str, nn.Module]]:
    return {
        term.name: {
            name: _built(builder, shapes, derive(seed, "adapter", term.name, name), device)
            for name, builder in term.adapters.items()
        }
        for term in program.terms
    }


def tap_shapes(
    roles: Mapping[str, Participant], image_shape: ImageShape
) -> dict[tuple[str, str], tuple[int, ...]]:
    """One pass of two black images through a copy of every network: (role, tap) -> shape of one sample."""
    return {
        (name, tap): tuple(value.shape[1:])
        for name, role in roles.items()
        for tap, value in _probe(role, image_shape).items()
    }


def _probe(role: Participant, image_shape: ImageShape) -> dict[str, Tensor]:
    probe = role.copy()
    probe.module.eval()
    with torch.no_grad():
        taps = tuple(dict.fromkeys((*role.taps, LOGITS)))
        return probe.run(torch.zeros(2, *image_shape, device=role.device), taps)


def reached_by(role: Participant, tap: str, image_shape: ImageShape) -> frozenset[str]:
    """Names of the parameters that the value at `tap` depends on."""
    probe = role.copy()
    probe.module.eval().requires_grad_(True)
    value = probe.run(torch.zeros(2, *image_shape, device=role.device), (tap,))[tap]
    names, parameters = zip(*probe.module.named_parameters(), strict=True)
    gradients = torch.autograd.grad(value.sum(), parameters, allow_unused=True)
    return frozenset(name for name, grad in zip(names, gradients, strict=True) if grad is not None)
