"""trtexec's arguments by version, held against the options in its source, and what it writes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgekd.backends.tensorrt import trtexec
from edgekd.backends.tensorrt.kit import calls
from edgekd.backends.tensorrt.trtexec import Engine, FormatError
from edgekd.backends.tensorrt.trtexec_flags import FLAGS, unknown

PLAIN = Engine("model.onnx", "model.engine", "input", (1, 3, 8, 8))
ENGINES = {
    "plain": PLAIN,
    "fixed batch": PLAIN._replace(is_dynamic=False),
    "DLA": PLAIN._replace(dla_core=1),
    "all": PLAIN._replace(tf32=True, timing_cache="timing.cache", optimization_level=5),
}
VERSIONS = [(10, "10.3"), (10, "10.16"), (11, "11.1")]


@pytest.mark.parametrize(("major", "version"), VERSIONS)
@pytest.mark.parametrize("name", ENGINES)
def test_every_option_is_one_that_this_version_knows(name: str, major: int, version: str) -> None:
    for _, argv in calls(major, ENGINES[name], 2):
        assert unknown(argv, version) == []


def test_an_option_of_the_other_version_is_found() -> None:
    assert unknown(trtexec.answer_argv(11, PLAIN, "a", "b"), "10.3") == ["includeDataTransfers"]
    assert unknown(["--onnx=a", "--fp16"], "11.1") == ["fp16"]
    assert unknown(["--fp16"], "10.3") == []


def test_the_lists_are_those_that_were_read() -> None:
    assert {version: len(names) for version, names in FLAGS.items()} == {
        "10.3": 109,
        "10.16": 127,
        "11.1": 132,
    }


def test_ten_is_told_what_is_elevens_default() -> None:
    ten, eleven = (set(trtexec.time_argv(major, PLAIN)) for major in (10, 11))
    assert ten - eleven == {"--useCudaGraph", "--noDataTransfers", "--useSpinWait", "--separateProfileRun"}
    assert eleven - ten == set()


def test_both_are_strongly_typed_without_tf32_and_without_precision_flags() -> None:
    ten, eleven = (trtexec.build_argv(major, PLAIN) for major in (10, 11))
    assert set(ten) - set(eleven) == {"--stronglyTyped"}
    for argv in (ten, eleven):
        assert "--noTF32" in argv and not {"--fp16", "--int8", "--best"} & set(argv)


def test_copies_are_made_where_answers_are_wanted() -> None:
    assert "--includeDataTransfers" in trtexec.answer_argv(11, PLAIN, "a", "b")
    assert "--noDataTransfers" not in trtexec.answer_argv(10, PLAIN, "a", "b")


def test_shapes_are_given_for_a_dynamic_batch_alone() -> None:
    argv = trtexec.build_argv(10, PLAIN)
    assert [word for word in argv if "Shapes" in word] == [
        f"--{which}Shapes=input:1x3x8x8" for which in ("min", "opt", "max")
    ]
    fixed = ENGINES["fixed batch"]
    for argv in (trtexec.build_argv(10, fixed), trtexec.time_argv(10, fixed)):
        assert not [word for word in argv if "hapes" in word]


def test_a_dla_core_is_named_in_every_call_and_falls_back_in_the_build() -> None:
    for _, argv in calls(10, ENGINES["DLA"], 1):
        assert "--useDLACore=1" in argv
    assert "--allowGPUFallback" in trtexec.build_argv(10, ENGINES["DLA"])


# --- what it writes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v100300] # trtexec --help", (10, 3, 0)),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v101601] # trtexec", (10, 16, 1)),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v110400] [b106] # trtexec", (11, 4, 0)),
    ],
)
def test_the_banner_tells_the_version(line: str, version: tuple[int, int, int]) -> None:
    assert trtexec.version_of(f"noise\n{line}\nmore") == version


def test_another_programs_banner_is_an_error() -> None:
    for text in ("", "usage: trtexec", "[TensorRT v8601]"):
        with pytest.raises(FormatError, match="which TensorRT"):
            trtexec.version_of(text)


def test_the_log_tells_the_gpu() -> None:
    log = "[I] Selected Device: Orin\n[I] Selected Device ID: 0\n[I] Compute Capability: 8.7\n"
    assert trtexec.device_of(log) == {"name": "Orin", "compute_capability": "8.7"}
    assert trtexec.device_of("") == {}


def run(compute: Any) -> dict[str, Any]:
    return {"h2dMs": 0.1, "computeMs": compute, "d2hMs": 0.0, "latencyMs": 0.1, "startEnqMs": 1}


def test_times_of_each_run_are_read() -> None:
    found = trtexec.read_times(json.dumps([run(1.5), run(2)]))
    assert [one["computeMs"] for one in found] == [1.5, 2.0]
    assert set(found[0]) == {"h2dMs", "computeMs", "d2hMs", "latencyMs"}


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "[1]", "[{}]", "nan", "[" * 100_000, json.dumps([run("1")]), json.dumps([run(None)]),
     json.dumps([run(float("nan"))]), json.dumps([run(True)]), json.dumps([run(1.0)])[:-3]],
)  # fmt: skip
def test_times_of_another_form_are_an_error(text: str) -> None:
    with pytest.raises(FormatError):
        trtexec.read_times(text)


def test_names_of_layers_with_separators_are_read() -> None:
    rows = '[{"count": 2}, {"name": "Conv_1\x1eRelu_2", "timeMs": 3, "averageMs": 1.5, "medianMs": 1.4}]'
    assert trtexec.read_profile(rows) == [{"name": "Conv_1\x1eRelu_2", "medianMs": 1.4}]
    assert trtexec.read_layers('{"Layers": [{"Metadata": "a\x1eb"}]}')["Layers"]


@pytest.mark.parametrize(
    "text", ["[]", "[3]", '[{"name": "a", "medianMs": 1}]', '[{"count": 1}, {"name": 3}]']
)
def test_a_profile_of_another_form_is_an_error(text: str) -> None:
    with pytest.raises(FormatError):
        trtexec.read_profile(text)


def test_the_output_is_that_of_the_first_tensor() -> None:
    text = '[{"name": "logits", "dimensions": "1x3", "values": [ 1, -2.5e-07, 3.14159 ]}]'
    assert trtexec.read_output(text) == [1.0, -2.5e-07, 3.14159]
    for bad in (
        "[]",
        "[{}]",
        '[{"values": []}]',
        '[{"values": ["1"]}]',
        '[{"values": [1e999]}]',
        '{"Layers": 1}',
    ):
        with pytest.raises(FormatError):
            trtexec.read_output(bad)
