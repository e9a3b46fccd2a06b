"""Lets MLCommons' LoadGen drive a graph; what it says is no MLPerf result. Python 3.8 and newer.

Needs the package mlcommons-loadgen, which has wheels for x86-64 only.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from .agent import RequestError, check_digest, load, timed, timing_inputs
else:
    from agent import RequestError, check_digest, load, timed, timing_inputs

SUMMARY = "mlperf_log_summary.txt"
_WARM_UP = 20


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """LoadGen's summary of one `scenario` (SingleStream, Offline) of at least `seconds` and `min_count`."""
    (artifact,) = request["artifacts"]
    check_digest(artifact)
    graph = load(request, artifact)
    inputs = timing_inputs(graph, artifact, request["seed"])
    # LoadGen has no warm-up of its own; and it makes as many queries as fill the time at the expected pace.
    fastest_ms = min(timed(partial(graph.run, x))[1] for x in (inputs * _WARM_UP)[:_WARM_UP])
    run(graph, inputs, request, fastest_ms)
    return {"summary": read_summary(Path(SUMMARY).read_text()), "num_inputs": len(inputs)}


def run(graph: Any, inputs: list[Any], request: dict[str, Any], fastest_ms: float) -> None:
    """One test; LoadGen leaves its logs in the working folder."""
    import mlperf_loadgen as lg
    import numpy as np

    def issue(samples: list[Any]) -> None:
        for sample in samples:
            logits = np.ascontiguousarray(graph.run(inputs[sample.index]))
            # The array must live until LoadGen has taken the response.
            lg.QuerySamplesComplete([lg.QuerySampleResponse(sample.id, logits.ctypes.data, logits.nbytes)])

    settings = lg.TestSettings()
    settings.scenario = getattr(lg.TestScenario, request["scenario"])
    settings.mode = lg.TestMode.PerformanceOnly
    settings.min_duration_ms = int(request["seconds"] * 1000)
    settings.min_query_count = request["min_count"]
    settings.single_stream_expected_latency_ns = int(fastest_ms * 1e6)
    settings.offline_expected_qps = 1e3 / fastest_ms
    log = lg.LogSettings()
    log.enable_trace = False
    server = lg.ConstructSUT(issue, lambda: None)
    library = lg.ConstructQSL(len(inputs), len(inputs), lambda indices: None, lambda indices: None)
    try:
        lg.StartTestWithLogSettings(server, library, settings, log)
    finally:
        lg.DestroyQSL(library)
        lg.DestroySUT(server)


def read_summary(text: str) -> dict[str, str]:
    """LoadGen's `name : value` lines; raises `RequestError` when it did not come to a result."""
    lines = [line.partition(":") for line in text.splitlines()]
    found = {key.strip(): value.strip() for key, colon, value in lines if colon and value.strip()}
    if "Result is" not in found:
        raise RequestError("LoadGen came to no result")
    return found
