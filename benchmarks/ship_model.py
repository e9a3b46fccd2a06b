"""Puts the teacher of a finished run under models/: `ship_model.py RUN models/NAME "SUMMARY"`.

Writes spec.yaml (network, preprocessing, labels, digest of the weights, metrics on val), card.md and
weights.safetensors. The recipe that trained it is kept beside them as recipe.yaml.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import yaml

from edgekd.core.digest import of_file
from edgekd.pipeline.run_folder import read_record, step_artifact


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("model", type=Path, help="the folder to write, models/<network>.<tag>")
    parser.add_argument("summary", help="one line for `edgekd list models`")
    arguments = parser.parse_args()
    ship(arguments.run, arguments.model, arguments.summary)


def ship(run: Path, model: Path, summary: str) -> None:
    record = read_record(run)
    artifact = step_artifact(record, run, "teacher")
    model.mkdir(parents=True, exist_ok=True)
    weights = model / "weights.safetensors"
    shutil.copyfile(artifact.path("model/weights.safetensors"), weights)
    spec = {
        "summary": summary,
        "model": json.loads(artifact.path("model/spec.json").read_text()),
        "weights_sha256": of_file(weights),
        "metrics": {"val_accuracy": artifact.facts["val_accuracy"]},
        "data": record.provenance["data"],
        "versions": record.provenance["versions"],
        "num_epochs": artifact.facts["num_epochs"],
        "num_parameters": artifact.facts["num_parameters"],
    }
    (model / "spec.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    (model / "card.md").write_text(card(model.name, spec))


def card(name: str, spec: dict) -> str:  # type: ignore[type-arg]
    network = spec["model"]["network"]
    height, width = spec["model"]["preprocess"]["size"]
    return f"""# {name}

{spec["summary"]}

| | |
|---|---|
| network | `{network["name"]}` {network["args"]}, {spec["num_parameters"]:,} parameters |
| input | {network["in_channels"]} x {height} x {width} |
| classes | {", ".join(spec["model"]["labels"])} |
| trained on | `{spec["data"]["source"]}`, train split of seed 0, {spec["num_epochs"]} epochs |
| recipe | `recipe.yaml` |
| accuracy on val | {spec["metrics"]["val_accuracy"]:.4f} |
| weights | sha256 `{spec["weights_sha256"]}` |

It is the teacher of the quickstart: small data, no use beyond it. It never saw val or test images.
"""


if __name__ == "__main__":
    main()
