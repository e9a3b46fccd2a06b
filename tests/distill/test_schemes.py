"""Schemes beyond one frozen teacher run through the same engine, written as a method would write them."""

from __future__ import annotations

import itertools
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.distill.context import TermContext
from edgekd.distill.hooks import Ema, StaleCopy
from edgekd.distill.kernels.respond import kl
from edgekd.distill.participant import Participant
from edgekd.distill.program import (
    LOGITS,
    Built,
    CopyOf,
    Deploy,
    Derived,
    Fresh,
    Given,
    Needs,
    Phase,
    Program,
    Shapes,
    StateDict,
    Term,
    Train,
    Turn,
    student_turn,
)
from edgekd.distill.sources import Generated
from edgekd.distill.validate import validate
from edgekd.distill.weights import RampUp
from edgekd.networks.tap import Tap
from edgekd.testing.tiny_networks import (
    IMAGE_SHAPE,
    NUM_CLASSES,
    TinyNet,
    tiny_participant,
)
from tests.distill.building import differ, engine_for, mimic, task, train, weights

GIVEN = {"student": tiny_participant(), "teacher": tiny_participant(8, name="teacher")}


def one_turn_each(*roles: str) -> tuple[Turn, ...]:
    """Deep mutual learning: every peer in its turn learns from the others."""
    return tuple(
        Turn(
            (Train(role),),
            (
                task(role, f"task:{role}"),
                mimic(role, *(r for r in roles if r != role), name=f"mimic:{role}"),
            ),
        )
        for role in roles
    )


# ---- Online: peers -------------------------------------------------------------------------------


def test_mutual_learning_trains_each_peer_in_its_own_turn() -> None:
    program = Program(
        {"student": Given(), "peer": Fresh("student")}, (Phase("main", one_turn_each("student", "peer")),)
    )
    validate(program, GIVEN, IMAGE_SHAPE)
    engine = engine_for(program)
    starts = {role: weights(engine, role) for role in ("student", "peer")}
    assert differ(starts["student"], starts["peer"]), "peers start from different weights"
    values = train(engine, 60)
    assert all(differ(starts[role], weights(engine, role)) for role in starts)
    assert values[-1]["task:peer"] < 0.5 * values[0]["task:peer"]
    assert engine.cache.num_runs == {"student": 2, "peer": 2}, "stale outputs are computed again"


def test_mutual_learning_in_one_turn_runs_every_peer_once() -> None:
    first, second = one_turn_each("student", "peer")
    joint = Turn((*first.train, *second.train), (*first.terms, *second.terms))
    engine = engine_for(Program({"student": Given(), "peer": Fresh("student")}, (Phase("main", (joint,)),)))
    train(engine, 1)
    assert engine.cache.num_runs == {"student": 1, "peer": 1}


def test_codistillation_learns_from_copies_that_are_refreshed_now_and_then() -> None:
    roles = {
        "student": Given(),
        "peer": Fresh("student"),
        "stale-student": CopyOf("student"),
        "stale-peer": CopyOf("peer"),
    }
    turn = Turn(
        (Train("student"), Train("peer")),
        (
            task(),
            task("peer", "task:peer"),
            mimic("student", "stale-peer"),
            mimic("peer", "stale-student", name="back"),
        ),
    )
    hooks = (StaleCopy("stale-student", "student", every=3), StaleCopy("stale-peer", "peer", every=3))
    engine = engine_for(Program(roles, (Phase("main", (turn,), hooks=hooks),)))
    start = weights(engine, "stale-peer")
    train(engine, 9, steps=range(2))
    assert differ(start, weights(engine, "stale-peer")) == set()
    train(engine, 9, steps=[2])
    assert differ(weights(engine, "peer"), weights(engine, "stale-peer")) == set()


# ---- Self: averaged copies, chains, branches -----------------------------------------------------


def mean_teacher() -> Program:
    def consistency(context: TermContext) -> Tensor:
        student = context.logits("student").softmax(1)
        return (student - context.logits("average", "x2").softmax(1)).pow(2).sum(1).mean()

    needs = Needs(outputs={"student": (LOGITS,), "average": (LOGITS,)}, views=("x", "x2"))
    terms = (task(), Term("consistency", consistency, needs, RampUp(3.0, over=0.5)))
    phase = Phase("main", (student_turn(terms),), hooks=(Ema("average", of="student", decay=0.9),))
    roles = {"student": Given(), "average": CopyOf("student")}
    return Program(roles, (phase,), Deploy(role="average"))


def test_mean_teacher_follows_the_student_and_is_what_is_deployed() -> None:
    validate(mean_teacher(), GIVEN, IMAGE_SHAPE)
    engine = engine_for(mean_teacher())
    assert engine.program.views == ("x", "x2")
    train(engine, 60)
    average = weights(engine, "average")
    assert differ(average, weights(engine, "student"))
    assert differ(average, engine.deployed().state_dict()) == set()
    assert engine.evaluate() > 0.7
    assert all(p.grad is None for p in engine.roles["average"].module.parameters())


def test_mean_teacher_resumes_bit_for_bit() -> None:
    whole, first, second = (engine_for(mean_teacher()) for _ in range(3))
    values = train(whole, 8)
    train(first, 8, steps=range(5))
    second.load_state(first.state())
    assert train(second, 8, steps=range(5, 8)) == values[5:]
    assert differ(weights(whole, "average"), weights(second, "average")) == set()


def test_a_chain_of_generations_teaches_the_next_one() -> None:
    """Born-again networks: generation k learns from the frozen generation k - 1."""
    generations = ("student", "generation2", "generation3")
    phases = [Phase("generation1", (student_turn((task(),)),))]
    for teacher, pupil in itertools.pairwise(generations):
        terms = (task(pupil, f"task:{pupil}"), mimic(pupil, teacher, name=f"mimic:{pupil}"))
        phases.append(Phase(pupil, (student_turn(terms, pupil),)))
    roles = {name: Given() if name == "student" else Fresh("student") for name in generations}
    engine = engine_for(Program(roles, tuple(phases), Deploy(role="generation3")))
    history = train(engine, 90, steps=range(60))
    second = weights(engine, "generation2")
    history += train(engine, 90, steps=range(60, 90))
    assert differ(second, weights(engine, "generation2")) == set(), "a teacher rests once it teaches"
    assert history[-1]["mimic:generation3"] < 0.5 * history[60]["mimic:generation3"]
    assert engine.evaluate() > 0.7


class Branched(nn.Module):
    """A trunk with its own head and a second one at tap `head2`."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.head2 = nn.Linear(8, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.trunk.stages:
            x = stage(x)
        features = self.trunk.flatten(self.trunk.pool(x))
        self.head2(features)
        return self.trunk.linear(features)


def test_a_branched_student_deploys_its_trunk_into_the_plain_network() -> None:
    def between_heads(context: TermContext) -> Tensor:
        return kl(context.tap("branched", "head2"), context.logits("branched").detach().softmax(1))

    def trunk_of(state: StateDict) -> StateDict:
        return {k.removeprefix("trunk."): v for k, v in state.items() if k.startswith("trunk.")}

    def branch(participant: Participant) -> Participant:
        module = Branched(participant.module)
        return replace(participant, module=module, taps={"head2": Tap("head2")})

    terms = (
        task("branched"),
        Term("self", between_heads, Needs(outputs={"branched": ("head2", LOGITS)})),
    )
    program = Program(
        {"student": Given(), "branched": Derived("student", branch)},
        (Phase("main", (student_turn(terms, "branched"),)),),
        Deploy(role="branched", network="student", extract=trunk_of),
    )
    validate(program, {"student": tiny_participant()}, IMAGE_SHAPE)
    engines = [engine_for(program) for _ in range(2)]
    assert differ(weights(engines[0], "branched"), weights(engines[1], "branched")) == set()
    start = weights(engines[0], "student")
    train(engines[0], 3)
    deployed = engines[0].deployed()
    trunk = engines[0].roles["branched"].module.trunk
    assert type(deployed) is TinyNet
    assert differ(dict(trunk.state_dict()), dict(deployed.state_dict())) == set()
    assert differ(start, dict(deployed.state_dict()))


# ---- Adversarial and data-free -------------------------------------------------------------------


class Critic(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(size, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, features: Tensor) -> Tensor:
        score: Tensor = self.layers(features)
        return score


def adversarial() -> Program:
    """A critic tells the teacher's logits from the student's; the student deceives it."""

    def judge(context: TermContext) -> Tensor:
        real = context.call("critic", context.logits("teacher"))
        fake = context.call("critic", context.logits("student").detach())
        bce = F.binary_cross_entropy_with_logits
        return bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake))

    def deceive(context: TermContext) -> Tensor:
        fake = context.call("critic", context.logits("student"))
        return F.binary_cross_entropy_with_logits(fake, torch.ones_like(fake))

    both = {"student": (LOGITS,), "teacher": (LOGITS,)}
    judging = Term("judge", judge, Needs(outputs=both, calls=("critic",)))
    deceiving = Term("deceive", deceive, Needs(outputs={"student": (LOGITS,)}, calls=("critic",)), 0.1)
    turns = (Turn((Train("critic"),), (judging,), repeat=2), student_turn((task(), deceiving)))
    roles = {
        "student": Given(),
        "teacher": Given(),
        "critic": Built(lambda shapes: Critic(shapes["teacher", LOGITS][0])),
    }
    return Program(roles, (Phase("main", turns),))


def test_an_adversarial_program_trains_critic_and_student_in_turns() -> None:
    validate(adversarial(), GIVEN, IMAGE_SHAPE)
    engine = engine_for(adversarial())
    starts = {role: weights(engine, role) for role in engine.roles}
    values = train(engine, 40)
    assert differ(starts["critic"], weights(engine, "critic"))
    assert differ(starts["student"], weights(engine, "student"))
    assert differ(starts["teacher"], weights(engine, "teacher")) == set()
    assert values[-1]["task"] < values[0]["task"]
    assert engine.state()["roles"].keys() == {"critic", "student"}


def test_a_critic_does_not_learn_in_the_students_turn() -> None:
    engine = engine_for(adversarial())
    train(engine, 1)
    assert not any(p.requires_grad for p in engine.roles["critic"].module.parameters())


class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3 * 64), nn.Sigmoid())

    def forward(self, latent: Tensor) -> Tensor:
        return self.layers(latent).view(-1, *IMAGE_SHAPE)


def data_free() -> Program:
    """DAFL's shape: the generator pleases the teacher, the student learns on its images without labels."""

    def please(context: TermContext) -> Tensor:
        logits = context.logits("teacher")
        mean = logits.softmax(1).mean(0)
        return F.cross_entropy(logits, logits.argmax(1)) + 5 * (mean * mean.log()).sum()

    pleasing = Term("please", please, Needs(outputs={"teacher": (LOGITS,)}))
    source = Generated("generator", latent_size=6)
    turns = (
        Turn((Train("generator"),), (pleasing,), source),
        Turn((Train("student"),), (mimic("student", "teacher"),), source),
    )
    roles = {"student": Given(), "teacher": Given(), "generator": Built(_generator)}
    return Program(roles, (Phase("main", turns),))


def _generator(shapes: Shapes) -> nn.Module:
    return Generator()


def test_a_data_free_program_teaches_on_generated_images() -> None:
    validate(data_free(), GIVEN, IMAGE_SHAPE)
    engine = engine_for(data_free())
    starts = {role: weights(engine, role) for role in engine.roles}
    values = train(engine, 40)
    assert differ(starts["generator"], weights(engine, "generator"))
    assert differ(starts["teacher"], weights(engine, "teacher")) == set()
    assert values[-1]["please"] < values[0]["please"]
    assert values[-1]["mimic"] < values[0]["mimic"]


def test_a_data_free_program_resumes_bit_for_bit() -> None:
    whole, first, second = (engine_for(data_free()) for _ in range(3))
    values = train(whole, 6)
    train(first, 6, steps=range(3))
    second.load_state(first.state())
    assert train(second, 6, steps=range(3, 6)) == values[3:]
