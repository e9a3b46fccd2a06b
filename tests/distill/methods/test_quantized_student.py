"""Feature methods on a student whose batch norm is folded and whose weights are quantized."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from edgekd.distill.cast import assemble
from edgekd.distill.context import Context, Live, OutputCache, Progress, TermContext
from edgekd.distill.launch import given_roles, make_engine
from edgekd.distill.methods.feature.fn import shortened, shortened_logits
from edgekd.distill.participant import Participant
from edgekd.quant.layers import QuantizedLinear
from edgekd.quant.prepare import calibrate, prepare
from edgekd.quant.settings import QuantSettings
from edgekd.testing.tiny_networks import IMAGE_SHAPE, tiny_batch, tiny_images, tiny_participant
from edgekd.testing.tiny_runs import RULES, program_of, train, trained_teacher, validation_arrays
from edgekd.train.precision import Precision

FP32 = Precision("fp32", "cpu")
FEATURE_METHODS = ["ab", "at", "fitnets", "fn", "ft", "overhaul", "reviewkd", "vid"]


def quantized_student() -> Participant:
    student = tiny_participant()
    images = student.normalize(tiny_images(16)[0])
    module = prepare(student.module, QuantSettings(weight_bits=4), images)
    calibrate(module, [images])
    return replace(student, module=module, taps=module.taps)


@pytest.mark.parametrize("name", FEATURE_METHODS)
def test_method_finds_its_taps_and_trains_a_quantized_student(name: str) -> None:
    student, teacher = quantized_student(), trained_teacher()
    engine = make_engine(
        program_of(name, student, [teacher]),
        student=student,
        teachers=[teacher],
        validation=validation_arrays(),
        image_shape=IMAGE_SHAPE,
        rules=RULES,
        seed=0,
    )
    before = {key: value.clone() for key, value in engine.roles["student"].module.named_parameters()}
    train(engine, 4)
    after = dict(engine.roles["student"].module.named_parameters())
    changed = [key for key, value in after.items() if not torch.equal(value, before[key])]
    assert any("stages.0.0.weight" in key for key in changed)
    assert all(bool(value.isfinite().all()) for value in after.values())


def test_fn_reads_the_quantized_weight_of_the_classifier() -> None:
    student, teacher = quantized_student(), trained_teacher()
    program = program_of("fn", student, [teacher])
    turn = program.phases[-1].turns[-1]
    live = Live(assemble(program, given_roles(student, [teacher]), IMAGE_SHAPE, 0), FP32, 0, {}, {})
    context = Context(live, turn, Progress(0, 0, 0.0), tiny_batch(0), OutputCache())
    term = next(term for term in turn.terms if term.name == "fn")
    with torch.no_grad():
        logits = shortened_logits(TermContext(context, term), "student", 2.0)
        embedding = shortened(context.outputs("student")["embedding"], 2.0)
    layer = student.module.get_submodule(student.taps["embedding"].path)
    assert isinstance(layer, QuantizedLinear)
    codes = (layer.weight / layer.weight_quantizer.step[:, None]).round().clamp(-7, 7).detach()
    step = layer.weight_quantizer.step.detach()
    torch.testing.assert_close(logits, F.linear(embedding, codes * step[:, None], layer.bias.detach()))
    assert not torch.allclose(logits, F.linear(embedding, layer.weight.detach(), layer.bias.detach()))
