"""The YAML that says what a foreign model takes and gives, and the limits to judge it by.

Every key may be left out: what the graph says is read from it, and what it cannot say has a default that the
audit names among its notes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from edgekd.core.config import Config
from edgekd.core.errors import RecipeError, UsageError
from edgekd.core.run_record import Finding
from edgekd.data.fitting import Fit
from edgekd.measure.protocol import PROTOCOLS
from edgekd.pipeline.document import Document, explain, read_document
from edgekd.pipeline.gate import GatePolicy
from edgekd.pipeline.gate_policy import RULES

REFERENCE = "reference"
"""The word, and the row, of the model given by `--against`."""

EXAMPLE = """\
# What model.onnx takes and gives. Every key may be left out.

labels: labels.txt                # one class a line, in the order of the outputs; or a list: [cat, dog]
                                  # default: the data's classes by alphabet, if there are as many as outputs

preprocess:
  size: [224, 224]                # [height, width] or one side; default: what the graph says
  fit: crop                       # stretch (default), crop (scale, then the middle), pad (on black)
  crop_share: 0.875               # for crop: 224 of 256
  resize: bilinear                # bilinear (default), bicubic, nearest
  channels: rgb                   # rgb (default), bgr, gray
  scale: 1/255                    # pixels 0..255 are multiplied by this first; default 1/255
  mean: [0.485, 0.456, 0.406]     # then this is subtracted (one value a channel, or one for all); default 0
  std: [0.229, 0.224, 0.225]      # and it is divided by this; default 1
                                  # a graph that takes uint8 gets the pixels as they are

input:
  name: images                    # default: the only input
  layout: nchw                    # nchw or nhwc; default: where the graph has its 1 or 3 channels

output:
  name: logits                    # default: the only output with one score per class
  kind: logits                    # logits or probabilities; default: looked at

images: 10000                     # how many there must be: a truncated test set is refused
sha256: null                      # of model.onnx: any other file is refused
protocol: quick                   # smoke, rapid, quick, normal, mlperf; `--time` chooses one that fits
accept: []                        # names of findings that you know of and accept, as [missing-classes]

gate:                             # as in a recipe; without limits the verdict is `inconclusive`
  accuracy: 70 %
  worst_class: 20 %
  latency_p90: 30ms               # or by target: {pi5: 30ms, local: 5ms}
  size: 20MB
  accuracy_drop: {max: 1.0pt}     # against --against OTHER.onnx, as are new_errors and speedup
  speedup: {min: 1.5x}
"""

_SHA256 = re.compile(r"[0-9a-f]{64}")


def _ratio(raw: object) -> object:
    """`1/255` as a number."""
    if isinstance(raw, str) and re.fullmatch(r"\s*\d+(\.\d+)?\s*/\s*\d+(\.\d+)?\s*", raw):
        above, below = (Fraction(part.strip()) for part in raw.split("/"))
        if below == 0:
            raise ValueError("divides by zero")
        return float(above / below)
    return raw


def _several(raw: object) -> object:
    return (raw,) if isinstance(raw, int | float) and not isinstance(raw, bool) else raw


Numbers = Annotated[tuple[float, ...], BeforeValidator(_several)]
Side = Annotated[int, Field(ge=1, le=8192)]


class PreprocessSpec(Config):
    """What happens to an image before the graph. None: the default, or what the graph says."""

    size: Side | tuple[Side, Side] | None = None
    fit: Fit = "stretch"
    crop_share: float = Field(0.875, gt=0, le=1)
    resize: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    channels: Literal["rgb", "bgr", "gray"] | None = None
    scale: Annotated[float | None, BeforeValidator(_ratio)] = Field(None, gt=0)
    mean: Numbers | None = None
    std: Numbers | None = None

    @model_validator(mode="after")
    def _one_scale(self) -> PreprocessSpec:
        if self.scale is None and any(abs(value) > 10 for value in self.mean or ()):
            raise ValueError("a `mean` over 10 is one of pixels in 0..255: write `scale: 1` with it")
        if self.scale is not None and self.scale < 0.1 and any(abs(v) > 10 for v in self.mean or ()):
            raise ValueError("`mean` is subtracted after `scale`, so with this scale it is at most about 1")
        return self

    @property
    def height_width(self) -> tuple[int, int] | None:
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def is_numbers_given(self) -> bool:
        return (self.scale, self.mean, self.std) != (None, None, None)


class InputSpec(Config):
    name: str | None = None
    layout: Literal["nchw", "nhwc"] | None = None


class OutputSpec(Config):
    name: str | None = None
    kind: Literal["logits", "probabilities"] | None = None


class AuditSpec(Config):
    """One model. `labels` is a list of names, or was read from the file that it named."""

    labels: tuple[str, ...] | None = None
    preprocess: PreprocessSpec = PreprocessSpec()
    input: InputSpec = InputSpec()
    output: OutputSpec = OutputSpec()
    images: int | None = Field(None, ge=1)
    sha256: str | None = None
    protocol: str | None = None
    accept: tuple[str, ...] = ()
    gate: GatePolicy = GatePolicy()

    @field_validator("labels")
    @classmethod
    def _each_once(cls, labels: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if labels is not None:
            twice = sorted({name for name in labels if labels.count(name) > 1})
            if twice or len(labels) < 2:
                raise ValueError(f"`{twice[0]}` stands twice" if twice else "needs at least two classes")
        return labels

    @field_validator("sha256")
    @classmethod
    def _is_digest(cls, digest: str | None) -> str | None:
        if digest is not None and not _SHA256.fullmatch(digest):
            raise ValueError("a sha256 is 64 hexadecimal digits")
        return digest

    @field_validator("protocol")
    @classmethod
    def _is_profile(cls, name: str | None) -> str | None:
        if name is not None and name not in PROTOCOLS:
            raise ValueError(f"`{name}` is not a measuring profile; profiles: {', '.join(PROTOCOLS)}")
        return name

    @field_validator("accept")
    @classmethod
    def _are_findings(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in names if name not in FINDINGS]
        if unknown:
            raise ValueError(f"`{unknown[0]}` is no finding; findings: {', '.join(FINDINGS)}")
        return names


FINDINGS = {
    "near-chance": "accuracy is about that of guessing",
    "preprocessing": "another common preprocessing scores clearly better",
    "channel-order": "with red and blue exchanged it scores clearly better",
    "resize": "with another way to the input size it scores clearly better",
    "layout": "with the bytes of each image read channels-first it scores clearly better",
    "transposed": "with height and width exchanged it scores clearly better",
    "inverted": "with dark and bright exchanged it scores clearly better",
    "label-order": "with the outputs in another order of classes it scores clearly better",
    "not-finite": "some outputs are NaN or infinite",
    "constant": "the same class is answered for every image",
    "dead-class": "a class that has images is never the answer",
    "labels-follow-answers": "even its closest calls are hardly ever wrong: were the labels made by it?",
    "not-repeatable": "the same image gets another answer when it is asked again",
    "unequal-doors": "one of the two models is timed behind operators of edgekd's own, the other is not",
    "training-mode": "the graph was exported for training: what it answers depends on the runtime",
    "batch-dependent": "an image gets another answer in company than alone",
    "missing-classes": "some classes of the model have no images",
    "unknown-classes": "some images are of classes that the model does not know",
    "copies": "many images stand more than once, so that intervals are too narrow",
    "contradictions": "equal images have labels of different classes",
    "leak": "images of the evaluation set are in the training data",
    "kernels": "the runtime's integer kernels answer otherwise than the graph's own arithmetic",
    "host-differs": "the target answers otherwise than this machine",
}
"""Everything that an audit may find beside its limits, by the name that `accept` takes."""


def load_spec(file: str | None, overrides: Sequence[str] = ()) -> AuditSpec:
    """The specification in a file, or the empty one, with `overrides` (`gate.accuracy=95%`).

    Raises `RecipeError` with every problem, `UsageError` for a file that cannot be read.
    """
    document = Document({}, {}, Path("(no --spec)")) if file is None else read_document(Path(file))
    data = document.data
    for text in overrides:
        _override(data, text)
    if isinstance(data.get("labels"), str):
        data["labels"] = _labels(document.file.parent / data["labels"])
    if isinstance(data.get("gate"), dict):
        data["gate"] = {name: _against_reference(name, bound) for name, bound in data["gate"].items()}
    try:
        return AuditSpec.model_validate(data)
    except ValidationError as error:
        problems = [_problem(document, item) for item in error.errors(include_url=False)]
        raise RecipeError(problems, where=str(document.file), what="specification") from error


def _override(data: dict[str, Any], text: str) -> None:
    from edgekd.core import plain_yaml

    path, equals, value = text.partition("=")
    *parents, last = path.strip().split(".")
    if not equals or not all((*parents, last)):
        raise UsageError(f"`--set {text}` is not of the form key.path=value", fix="--set gate.accuracy=95%")
    node = data
    for parent in parents:
        inner = node.get(parent)
        node[parent] = dict(inner) if isinstance(inner, dict) else {}
        node = node[parent]
    try:
        _, node[last] = plain_yaml.parse(value)
    except ValueError as error:
        raise UsageError(f"`--set {text}`: the value is not valid YAML") from error


def _labels(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the labels: {error}", where=str(path)) from error


def _against_reference(name: str, bound: Any) -> Any:
    """What a recipe compares with its teacher, an audit compares with the other model."""
    if name not in RULES or not RULES[name].paired:
        return bound
    if isinstance(bound, list):
        return [_against_reference(name, one) for one in bound]
    if isinstance(bound, dict):
        is_long = RULES[name].side in bound or "against" in bound
        long = bound if is_long else {RULES[name].side: bound}
        return {"against": REFERENCE, **long}
    return {RULES[name].side: bound, "against": REFERENCE}


def _problem(document: Document, item: Any) -> str:
    loc = tuple(part for part in item["loc"] if not isinstance(part, str) or "[" not in part)
    model: Any = AuditSpec
    for part in loc[:-1]:
        field = model.model_fields.get(part) if isinstance(part, str) else None
        inner = field.annotation if field is not None else None
        if isinstance(inner, type) and issubclass(inner, Config):
            model = inner
    return f"{document.where(loc)}: {explain(item, list(model.model_fields))}"


def accepted(findings: Sequence[Finding], spec: AuditSpec) -> tuple[Finding, ...]:
    """The findings, of which those that the specification accepts are notes."""
    return tuple(
        one.model_copy(update={"accepted": True}) if one.name in spec.accept else one for one in findings
    )
