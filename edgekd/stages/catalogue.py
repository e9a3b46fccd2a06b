"""The stages a recipe may use, in the order they usually stand."""

from __future__ import annotations

from edgekd.core.registry import Entry, Registry
from edgekd.stages.stage import Stage

STAGES: Registry[Stage] = Registry(
    "stage",
    [
        Entry("teacher", "edgekd.stages.teacher:STAGE", "the trained network to learn from"),
        Entry("latency", "edgekd.stages.latency:STAGE", "a table of measured latencies over a space"),
        Entry("select", "edgekd.stages.select:STAGE", "the student that scores best within the budget"),
        Entry("student", "edgekd.stages.student:STAGE", "a student named by hand"),
        Entry("distill", "edgekd.stages.distill:STAGE", "train the student with the teacher"),
        Entry("quantize", "edgekd.stages.quantize:STAGE", "INT8, with the teacher still teaching"),
        Entry("export", "edgekd.stages.export:STAGE", "the graph that a runtime loads"),
        Entry("choose", "edgekd.stages.choose:STAGE", "the fastest artifact that keeps the limits"),
    ],
    group="edgekd.stages",
)
