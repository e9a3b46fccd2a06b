"""The smallest graph that OpenVINO can run: what a process needs before any model is in it."""

from __future__ import annotations

_SHAPE = "<dim>-1</dim><dim>1</dim>"

_ONE_RELU = f"""<?xml version="1.0"?>
<net name="baseline" version="11">
  <layers>
    <layer id="0" name="input" type="Parameter" version="opset1">
      <data shape="?,1" element_type="f32"/>
      <output><port id="0" precision="FP32" names="input">{_SHAPE}</port></output>
    </layer>
    <layer id="1" name="logits" type="ReLU" version="opset1">
      <input><port id="0" precision="FP32">{_SHAPE}</port></input>
      <output><port id="1" precision="FP32" names="logits">{_SHAPE}</port></output>
    </layer>
    <layer id="2" name="result" type="Result" version="opset1">
      <input><port id="0" precision="FP32">{_SHAPE}</port></input>
    </layer>
  </layers>
  <edges>
    <edge from-layer="0" from-port="0" to-layer="1" to-port="0"/>
    <edge from-layer="1" from-port="1" to-layer="2" to-port="0"/>
  </edges>
</net>
"""


def one_node_graph() -> bytes:
    """One ReLU over float32 `[batch, 1]`; it has no constant, and so needs no `.bin` beside it."""
    return _ONE_RELU.encode()
