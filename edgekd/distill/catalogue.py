"""The methods a recipe may name. Importing this needs no torch; loading a method does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekd.core.registry import Entry, Registry

if TYPE_CHECKING:
    from edgekd.distill.card import Card
    from edgekd.distill.method import AnyMethod

_METHODS: dict[str, dict[str, str]] = {
    "response": {
        "none": "labels only: the control, and how teachers are trained",
        "kd": "softened class probabilities of one or more teachers (Hinton 2015)",
        "avg-teachers": "the averaged probabilities of two or more teachers (Hinton 2015)",
        "conditional-ts": "the teacher where it is right, else the label (Meng 2019)",
        "cs-kd": "agreement with another image of the same class, no teacher (Yun 2020)",
        "dist": "correlations between and within classes instead of an exact match (Huang 2022)",
        "dkd": "label against the rest, and the rest among themselves, weighted apart (Zhao 2022)",
        "logit-regression": "squared error of the raw logits, without labels (Ba & Caruana 2014)",
        "lwf": "an old model keeps its classes while new ones are learned (Li & Hoiem 2017)",
        "tf-kd-reg": "a designed, almost uniform distribution as the teacher (Yuan 2020)",
    },
    "feature": {
        "ab": "a phase that copies which neurons fire, then cross-entropy (Heo 2019, AAAI)",
        "at": "spatial attention maps of the stages (Zagoruyko & Komodakis 2017)",
        "fitnets": "a phase of feature regression at a middle stage, then kd (Romero 2015)",
        "fn": "kd whose temperature is the length of each sample's embedding (Xu 2020)",
        "ft": "factors: a paraphraser condenses the teacher's last features first (Kim 2018)",
        "overhaul": "pre-activations with a margin, where they matter to the ReLU (Heo 2019, ICCV)",
        "reviewkd": "deep stages help to mimic the teacher's shallow ones (Chen 2021)",
        "vid": "a lower bound of the mutual information of the features (Ahn 2019)",
    },
    "relation": {
        "cckd": "a kernel between the batch's embeddings, class-uniform batches (Peng 2019)",
        "crd": "tell each image's teacher embedding from 16384 others', memory bank (Tian 2020)",
        "fsp": "a phase on products of neighboring stages' features, then cross-entropy (Yim 2017)",
        "irg": "logits, distances between samples, and their way from stage to stage (Liu 2019)",
        "mlkd": "embeddings and the distances between them (Yu 2019)",
        "nst": "which positions the channels of the last stage select (Huang & Wang 2017)",
        "pkt": "which samples are whose neighbors, as probabilities (Passalis & Tefas 2018)",
        "rkd-a": "angles between the batch's embeddings (Park 2019)",
        "rkd-d": "distances between the batch's embeddings (Park 2019)",
        "sp": "similarities between the samples of a batch at the last stage (Tung & Mori 2019)",
    },
    "peers": {
        "codistillation": "networks learn from stale copies of one another (Anil 2018)",
        "dml": "networks learn together, each from the others' predictions (Zhang 2018)",
        "kdcl": "networks see different views and learn from their best joint answer (Guo 2020)",
        "mean-teacher": "the average of the student's own past weights teaches it (Tarvainen 2017)",
    },
    "branched": {
        "byot": "early exits learn from the network's own last layer (Zhang 2019)",
        "okddip": "diverse branches teach one another, and together a leader (Chen 2020)",
        "one": "branches learn from their gated ensemble; one is deployed (Lan 2018)",
    },
    "chain": {
        "born-again": "generations of one architecture, each teaching the next (Furlanello 2018)",
        "noisy-student": "pseudo-labels of unlabeled images, learned under noise (Xie 2020)",
        "rco": "checkpoints of a teacher's own training, from the easiest to the last (Jin 2019)",
        "takd": "kd in steps through assistants between teacher and student (Mirzadeh 2020)",
        "tf-kd-self": "a copy of the student, trained first, as its teacher (Yuan 2020)",
    },
    "adversarial": {
        "psn": "kd, and features that a discriminator takes for the teacher's (Wang 2018)",
    },
    "synthetic": {
        "dafl": "no data: images of a generator that the teacher is sure about (Chen 2019)",
        "deepinversion": "no data: images recovered from the teacher's batch norms (Yin 2020)",
    },
}
"""Folder of `methods/` (by the shape of the code) -> method -> what it does, in one line."""


def _entry(folder: str, name: str, summary: str) -> Entry:
    """The method lives in `methods/<folder>/<name>.py`, with underscores for hyphens."""
    target = f"edgekd.distill.methods.{folder}.{name.replace('-', '_')}:METHOD"
    return Entry(name, target, summary, extra="train")


METHODS: Registry[AnyMethod] = Registry(
    "method",
    [
        _entry(folder, name, summary)
        for folder, methods in _METHODS.items()
        for name, summary in methods.items()
    ],
    group="edgekd.methods",
)


def card(name: str) -> Card:
    """A method's card. Raises `UsageError` for an unknown name."""
    return METHODS.load(name).card
