"""Candidates as graphs: built with random weights, in the precision that will ship, and timed on targets."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.backends.catalogue import BACKENDS
from edgekd.backends.source import Source
from edgekd.core.artifact import Artifact
from edgekd.core.seed import derive
from edgekd.core.spec import ModelSpec
from edgekd.measure.protocol import PROTOCOLS
from edgekd.search.features import Precision
from edgekd.search.space import Candidate
from edgekd.search.spaces import load_space
from edgekd.search.timing import P50, Timed
from edgekd.stages.context import StageContext
from edgekd.stages.model_files import default_preprocess, load

if TYPE_CHECKING:
    from edgekd.networks.model import Model

TEACHER = "teacher"


def candidates_of(context: StageContext, space: Any) -> tuple[Candidate, ...]:
    """Every candidate of a space for this run's data."""
    dataset = context.data.dataset
    return load_space(space).candidates(
        num_classes=len(dataset.classes),
        in_channels=dataset.channels,
        preprocess=default_preprocess(context.data),
    )


def spec_of(context: StageContext, candidate: Candidate) -> ModelSpec:
    return ModelSpec(
        network=candidate.spec, preprocess=candidate.preprocess, labels=context.data.dataset.classes
    )


@dataclass(frozen=True)
class Workbench:
    """Exports candidates and times them, the teacher among them, in one interleaved session a target."""

    context: StageContext
    backend: str
    precision: Precision
    protocol: str
    teacher: Artifact | None = None

    def time(self, candidates: Sequence[Candidate]) -> dict[str, Timed]:
        """Candidate id (and `teacher`) -> p50 by target within reach and size of the exported file."""
        with tempfile.TemporaryDirectory(dir=self.context.folder, prefix="graphs-") as name:
            graphs = self._export_all(Path(name), candidates)
            p50_ms: dict[str, dict[str, P50]] = {graph: {} for graph in graphs}
            for target in self.context.reached:
                for graph, found in self._time(graphs, target).items():
                    p50_ms[graph][target.name] = found
            backend = BACKENDS.load(self.backend)
            sizes = {graph: backend.size_of(path) for graph, path in graphs.items()}
        return {graph: Timed(p50_ms=p50_ms[graph], size_bytes=sizes[graph]) for graph in graphs}

    def _time(self, graphs: Mapping[str, Path], target: Any) -> dict[str, P50]:
        from edgekd.measure.probes import Graph, time_graphs

        seed = derive(self.context.seed, "candidates", *sorted(graphs))
        given = {name: Graph(path, self.backend) for name, path in graphs.items()}
        found = time_graphs(given, target, PROTOCOLS[self.protocol], seed=seed)
        return {graph: P50(value=time.p50_ms, spread=time.spread) for graph, time in found.items()}

    def _export_all(self, folder: Path, candidates: Sequence[Candidate]) -> dict[str, Path]:
        from edgekd.stages.export_form import form_for

        graphs, backend = {}, BACKENDS.load(self.backend)
        for number, candidate in enumerate(candidates):
            text = f"export {candidate.id}"
            self.context.emit({"event": "progress", "done": number, "total": len(candidates), "text": text})
            form = form_for(self.context, self._untrained(candidate), backend, self.precision)
            graphs[candidate.id] = self._export(folder, f"candidate{number}", form.source)
        if self.teacher is not None:
            model = load(self.teacher, trust_code=self.context.trust_code)
            graphs[TEACHER] = self._export(folder, TEACHER, form_for(self.context, model, backend).source)
        return graphs

    def _untrained(self, candidate: Candidate) -> Model:
        """Random weights: a graph's latency does not depend on their values."""
        from edgekd.networks.initialize import init_weights
        from edgekd.networks.model import build_model

        model = build_model(spec_of(self.context, candidate), trust_code=self.context.trust_code)
        init_weights(model.module, self.context.seed, candidate.id)
        model.module.eval()
        return self._quantized(model) if self.precision == "int8" else model

    def _quantized(self, model: Model) -> Model:
        from edgekd.stages.post_training import calibrated, finalized, quant_settings
        from edgekd.stages.quantize import QuantizeConfig

        profile = next(iter(BACKENDS.load(self.backend).profiles), None)
        settings = quant_settings(QuantizeConfig(), self.context.target_facts, profile)
        quantized = calibrated(self.context, model, settings, num_batches=1)
        finalized(quantized)
        return quantized

    def _export(self, folder: Path, name: str, source: Source) -> Path:
        backend = BACKENDS.load(self.backend)
        path = folder / f"{name}{backend.suffix}"
        backend.export(source, path)
        return path


def median_p50(timings: Sequence[Timed]) -> dict[str, float]:
    """Target -> median over sessions of the p50 in ms."""
    targets = timings[0].p50_ms if timings else {}
    return {name: statistics.median(t.p50_ms[name].value for t in timings) for name in targets}
