"""Peers of the student's architecture and of others."""

from __future__ import annotations

from edgekd.distill.cohort import PeerNetwork, cohort
from edgekd.distill.compose import build_program
from edgekd.distill.program import Architecture, Fresh, Given
from edgekd.distill.settings import DistillSettings
from edgekd.testing.tiny_networks import NUM_CLASSES
from tests.distill.building import differ, engine_for, train, weights

OTHER = {"network": "resnet_cifar", "args": {"depth": 8, "base_channels": 8}}


def test_a_number_means_networks_like_the_student() -> None:
    assert cohort(2) == {"student": Given(), "peer1": Fresh("student"), "peer2": Fresh("student")}


def test_a_list_names_the_other_networks() -> None:
    roles = cohort((PeerNetwork.model_validate(OTHER),))
    assert roles == {
        "student": Given(),
        "peer1": Architecture("resnet_cifar", {"depth": 8, "base_channels": 8}),
    }


def test_peers_start_with_weights_of_their_own() -> None:
    engine = engine_for(build_program(DistillSettings(method={"name": "dml", "peers": 2})))
    starts = [weights(engine, role) for role in ("student", "peer1", "peer2")]
    assert all(differ(starts[i], starts[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_a_peer_of_another_architecture_learns_the_same_classes() -> None:
    method = {"name": "dml", "peers": [OTHER], "order": "in_turn"}
    engine = engine_for(build_program(DistillSettings(method=method)))
    start = weights(engine, "peer1")
    train(engine, 2)
    assert start["linear.weight"].shape[0] == NUM_CLASSES
    assert differ(start, weights(engine, "peer1"))
