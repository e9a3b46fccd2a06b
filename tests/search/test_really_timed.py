"""The whole path on small convolution graphs, really timed in ONNX Runtime."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.search.budget import from_limits
from edgekd.search.scorer import Scorer
from edgekd.search.selection import choose
from edgekd.search.space import Candidate
from edgekd.search.strategy import Shortlist
from edgekd.search.timing import P50, Conditions, Timed, build_table
from tests.search.material import TARGET, all_features, candidates, capacity_score, latency_limit

pytestmark = pytest.mark.quiet


def graph(candidate: Candidate) -> onnx.ModelProto:
    """`depth` 3x3 convolutions with ReLU, as `material.features` counts them."""
    channels = int(16 * candidate.spec.args["width"])
    nodes, weights = [], []
    for index in range(int(candidate.spec.args["depth"])):
        value = np.full((channels, channels, 3, 3), 0.01, np.float32)
        weights.append(numpy_helper.from_array(value, f"w{index}"))
        nodes.append(helper.make_node("Conv", [f"x{index}", f"w{index}"], [f"y{index}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"y{index}"], [f"x{index + 1}"]))
    shape = [1, channels, *candidate.resolution]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("x0", f"x{index + 1}")]
    made = helper.make_graph(nodes, "plain", ends[:1], ends[1:], weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def time_candidates(group: Sequence[Candidate]) -> dict[str, Timed]:
    """p50 of 25 runs after 5 to warm up, one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    found = {}
    for candidate in group:
        data = graph(candidate).SerializeToString()
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        image = np.ones(session.get_inputs()[0].shape, np.float32)
        times = []
        for _ in range(30):
            start = time.perf_counter()
            session.run(None, {"x0": image})
            times.append((time.perf_counter() - start) * 1e3)
        p50 = P50(value=statistics.median(times[5:]))
        found[candidate.id] = Timed(p50_ms={TARGET: p50}, size_bytes=len(data))
    return found


def test_a_budget_on_real_latencies_is_predicted_chosen_and_remeasured() -> None:
    everything = candidates()
    facts = all_features(everything)
    table = build_table(everything, facts, time_candidates, 10, Conditions())
    assert table.predictors[TARGET].kendall_tau > 0.6
    slowest = max(row.latency[TARGET].p50_ms for row in table.rows)
    budget = from_limits([latency_limit(slowest / 4)], {})
    remeasured = lambda candidate: time_candidates([candidate])[candidate.id]  # noqa: E731
    found = choose(everything, table, budget, Scorer(capacity_score), Shortlist(), remeasured)
    assert found.remeasured.p50_ms[TARGET].value <= budget.latency_ms[TARGET]
    assert found.winner.id != max(everything, key=lambda c: facts[c.id].macs).id


def test_predictions_rank_candidates_that_were_not_timed() -> None:
    from edgekd.search.agreement import kendall_tau

    everything = candidates()
    table = build_table(everything, all_features(everything), time_candidates, 10, Conditions())
    rest = [row for row in table.rows if not row.latency[TARGET].measured]
    truth = time_candidates([row.candidate for row in rest])
    measured = np.array([truth[row.candidate.id].p50_ms[TARGET].value for row in rest])
    predicted = np.array([row.latency[TARGET].p50_ms for row in rest])
    assert kendall_tau(predicted, measured) > 0.6
