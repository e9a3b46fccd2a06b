"""Further modules on a network: exits, gates, whatever reads its taps and is not deployed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from edgekd.distill.participant import Participant, StrictRecorder
from edgekd.distill.program import LOGITS, Head, StateDict
from edgekd.networks.tap import Tap, Taps, require

_NETWORK, _HEADS = "network", "heads"


class Headed(nn.Module):
    """Runs `network`, then every head on the values at its taps, and returns what `network` returns.

    inputs: name of a head -> the taps that it reads, in the order of its arguments.
    """

    def __init__(
        self,
        network: nn.Module,
        taps: Mapping[str, Tap],
        heads: Mapping[str, nn.Module],
        inputs: Mapping[str, tuple[str, ...]],
    ) -> None:
        super().__init__()
        self.network = network
        self.heads = nn.ModuleDict(dict(heads))
        self._inputs = dict(inputs)
        read = dict.fromkeys(tap for names in inputs.values() for tap in names if tap != LOGITS)
        self._taps = {name: taps[name] for name in read}

    def forward(self, x: Tensor) -> Tensor:
        recorder = StrictRecorder(self.network, self._taps, taps=self._taps)
        with recorder as values:
            logits: Tensor = self.network(x)
        recorder.check()
        values[LOGITS] = logits
        for name, head in self.heads.items():
            head(*(values[tap] for tap in self._inputs[name]))
        return logits


def with_heads(
    participant: Participant, heads: Mapping[str, Head], modules: Mapping[str, nn.Module]
) -> Participant:
    """The participant with `modules` as its heads; its taps and those of the heads.

    Raises `ModelError` for a head that reads a tap which the participant does not have.
    """
    inputs = {name: head.taps for name, head in heads.items()}
    legal = {LOGITS: Tap("")} | dict(participant.taps)
    require(legal, (tap for names in inputs.values() for tap in names), where="heads")
    module = Headed(participant.module, participant.taps, modules, inputs)
    taps = prefixed(participant.taps, _NETWORK)
    for name, head in heads.items():
        path = f"{_HEADS}.{name}"
        inner = {f"{name}:{key}": tap for key, tap in head.inner.items()}
        taps |= {name: Tap(path)} | prefixed(inner, path)
    return replace(participant, module=module, taps=taps)


def without_heads(state: StateDict) -> StateDict:
    """The state dict of the network alone."""
    start = f"{_NETWORK}."
    return {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}


def prefixed(taps: Mapping[str, Tap], path: str) -> Taps:
    """The same points after their module became the submodule `path` of another."""
    return {name: Tap(f"{path}.{tap.path}", tap.end) for name, tap in taps.items()}
