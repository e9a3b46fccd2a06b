"""Splits a network at a tap: a shared trunk, and several copies of what follows it.

    x -> trunk -> branch1 -> the network's logits
               -> branch2 -> ...

Trunk and branches are pieces of the network's traced graph and keep the names of its modules, so the trunk
and one branch together are the plain network again (`as_plain_network`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, fx, nn

from edgekd.core.errors import UsageError
from edgekd.distill.heads import prefixed
from edgekd.distill.method import Roster
from edgekd.distill.participant import Participant
from edgekd.distill.program import LOGITS, StateDict, Term
from edgekd.networks.initialize import init_weights
from edgekd.networks.tap import Tap, Taps, require
from edgekd.networks.traced import Tracer

_TRUNK = "trunk"


class Branched(nn.Module):
    """Returns the logits of branch 1; those of branch k are the output of the submodule `branch<k>`."""

    def __init__(self, trunk: nn.Module, branches: Iterable[nn.Module]) -> None:
        super().__init__()
        self.trunk = trunk
        self.num_branches = 0
        for number, branch in enumerate(branches, 1):
            self.add_module(_branch(number), branch)
            self.num_branches = number

    def forward(self, x: Tensor) -> Tensor:
        features = self.trunk(x)
        logits: list[Tensor] = [
            self.get_submodule(_branch(number))(features) for number in range(1, self.num_branches + 1)
        ]
        return logits[0]


def branched(participant: Participant, tap: str, num_branches: int) -> Participant:
    """`participant` split behind `tap`, with `num_branches` branches.

    Branch 1 has the network's own weights; the others draw theirs anew from torch's global stream. The
    network's taps stay and mean branch 1; `branch_tap(k, tap)` names those behind the split in branch k.
    Raises `UsageError` for a network that cannot be traced, and for a tap that it does not have, that
    something bypasses or that has no weights behind it.
    """
    point = require(participant.taps, [tap], where="branches")[tap]
    network = _traced(participant.module)
    trunk, tail = _split(network, _value_at(network, tap, point), tap)
    _check_weights(participant.module, trunk, tail, tap)
    branches = [tail, *(_fresh(tail, number) for number in range(2, num_branches + 1))]
    taps = _taps(participant.taps, trunk, tail, num_branches)
    return replace(participant, module=Branched(trunk, branches), taps=taps)


def split_point(roster: Roster, wanted: str | None) -> str:
    """`wanted`, or the student's last stage but one, so that branches own the last stage and the classifier.

    Raises `UsageError` for a tap that the student does not have and for a student with fewer than two stages.
    """
    if wanted is None and len(roster.stages) < 2:
        raise UsageError(
            "branches split the student behind its last stage but one, and it has one stage",
            fix="give `tap:`, the point behind which the student branches",
        )
    tap = wanted or roster.stages[-2]
    if tap not in roster.student_taps:
        raise UsageError(
            f"the student has no tap `{tap}`", choices=roster.student_taps, fix="name one of its taps"
        )
    return tap


def branch_tasks(roster: Roster, role: str, num_branches: int) -> tuple[Term, ...]:
    """Every branch's cross-entropy: `task` for branch 1, which is deployed, `task:branch2`, ..."""
    names = ["task", *(f"task:{_branch(number)}" for number in range(2, num_branches + 1))]
    return tuple(
        roster.task.term(role, name=name, tap=branch_tap(number)) for number, name in enumerate(names, 1)
    )


def branch_tap(number: int, tap: str = LOGITS) -> str:
    """`branch2:logits`, `branch2:embedding`, ..."""
    return f"{_branch(number)}:{tap}"


def as_plain_network(state: StateDict) -> StateDict:
    """The state dict of the network that was split: trunk and branch 1."""
    parts = {key: key.split(".", 1) for key in state}
    return {name: state[key] for key, (part, name) in parts.items() if part in (_TRUNK, _branch(1))}


def _branch(number: int) -> str:
    return f"branch{number}"


def _traced(module: nn.Module) -> fx.GraphModule:
    """As it runs in training: the graph keeps the training mode in which a functional dropout was traced."""
    training = module.training
    try:
        graph = Tracer().trace(module.train())
    except Exception as error:  # a forward pass may raise anything when it is run on symbols
        raise UsageError(
            f"{type(module).__name__} cannot be traced, so it cannot be split into branches: {error}",
            fix="use another network, or a method without branches (`dml`, `kd`)",
        ) from error
    finally:
        module.train(training)
    return fx.GraphModule(module, graph, type(module).__name__)


def _value_at(network: fx.GraphModule, tap: str, point: Tap) -> fx.Node:
    calls = [n for n in network.graph.nodes if n.op == "call_module" and n.target == point.path]
    if len(calls) != 1:
        raise UsageError(
            f"the tap `{tap}` is at `{point.path}`, which the traced network runs {len(calls)} times",
            fix="point the tap at a leaf module that runs exactly once",
        )
    call: fx.Node = calls[0]
    return call if point.end == "output" else call.all_input_nodes[0]


def _split(network: fx.GraphModule, shared: fx.Node, tap: str) -> tuple[fx.GraphModule, fx.GraphModule]:
    """What makes `shared` from the images, and what makes the logits from `shared`."""
    (output,) = network.graph.find_nodes(op="output")
    (result,) = output.all_input_nodes
    trunk, tail = _made_of(shared, None), _made_of(result, shared)
    bypassing = [
        node
        for node in network.graph.nodes
        if node in tail and (node.op == "placeholder" or (node in trunk and node.op != "get_attr"))
    ]
    if bypassing:
        raise UsageError(
            f"the network cannot branch at `{tap}`: `{bypassing[-1].name}` bypasses it and is used behind it",
            fix="name a tap through which everything passes (the end of a stage)",
        )
    images = next(iter(network.graph.find_nodes(op="placeholder")))
    return _piece(network, trunk, images, shared), _piece(network, tail, shared, result)


def _made_of(result: fx.Node, stop: fx.Node | None) -> set[fx.Node]:
    """`result` and what it is computed from, back to `stop`, which is left out."""
    found: set[fx.Node] = set()
    waiting = [result]
    while waiting:
        node = waiting.pop()
        if node is not stop and node not in found:
            found.add(node)
            waiting += node.all_input_nodes
    return found


def _piece(network: fx.GraphModule, nodes: set[fx.Node], source: fx.Node, result: fx.Node) -> fx.GraphModule:
    """The network's `nodes` as a module source -> result, its submodules under the network's names.

    (`torch.fx.passes.split_module` renames them and hands loose parameters in from outside; the deployed
    state dict needs the names.)
    """
    graph = fx.Graph()
    copies = {source: graph.placeholder("features")}
    for node in network.graph.nodes:
        if node in nodes and node is not source:
            copies[node] = graph.node_copy(node, lambda argument: copies[argument])
    graph.output(copies[result])
    graph.lint()
    return fx.GraphModule(network, graph)


def _check_weights(module: nn.Module, trunk: nn.Module, tail: nn.Module, tap: str) -> None:
    """Every tensor of the network is in one of the pieces, else the deployed network could not be filled."""
    before, behind = trunk.state_dict().keys(), tail.state_dict().keys()
    unused = sorted(module.state_dict().keys() - before - behind)
    if not any(True for _ in tail.parameters()):
        raise UsageError(
            f"nothing with weights follows the tap `{tap}`, so there is nothing to branch",
            fix="name an earlier tap",
        )
    if before & behind:
        raise UsageError(
            f"`{min(before & behind)}` is used before and behind the tap `{tap}`, so branches cannot own it",
            fix="use a network without shared weights, or a method without branches (`dml`, `kd`)",
        )
    if unused:
        raise UsageError(
            f"the forward pass of {type(module).__name__} never uses `{unused[0]}`",
            fix="remove the layer from the network, or use a method without branches (`dml`, `kd`)",
        )


def _fresh(tail: fx.GraphModule, number: int) -> fx.GraphModule:
    branch = copy.deepcopy(tail)
    init_weights(branch, int(torch.randint(2**62, ())), _branch(number))
    return branch


def _taps(taps: Mapping[str, Tap], trunk: nn.Module, tail: nn.Module, num_branches: int) -> Taps:
    own, behind = dict(trunk.named_modules()), dict(tail.named_modules())
    found = prefixed({name: tap for name, tap in taps.items() if tap.path in own}, _TRUNK)
    later = {name: tap for name, tap in taps.items() if tap.path in behind}
    found |= prefixed(later, _branch(1))
    for number in range(1, num_branches + 1):
        inside = prefixed(later, _branch(number)) | {LOGITS: Tap(_branch(number))}
        found |= {branch_tap(number, name): tap for name, tap in inside.items()}
    return found
