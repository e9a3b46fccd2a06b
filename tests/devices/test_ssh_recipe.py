"""One recipe with two targets, this machine and one over ssh, from the teacher to the verdict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgekd.targets.devices_edit import write_entry
from edgekd.targets.devices_file import DEVICES_FILE
from tests.cli.running import edgekd
from tests.devices.sshd import NAME, Sshd, user

pytestmark = [pytest.mark.devices, pytest.mark.slow]
RECIPE = """
data: {source: digits}
targets: [local, board]
measure: {protocol: smoke}
gate: {size: 1MB, accuracy: {board: 5%, local: 5%}}
teacher: {network: resnet_cifar, args: {depth: 8, width: 0.5}, epochs: 2}
steps:
  - teacher
  - student: {network: resnet_cifar, args: {depth: 8, width: 0.25}}
  - distill: {epochs: 1}
  - export
"""


@pytest.mark.timeout(900)
def test_a_recipe_with_two_targets_runs_whole(server: Sshd, tmp_path: Path) -> None:
    target = server.target(cache="20MB")
    keep = {"kind", "host_key", "fingerprint", "python", "cache"}
    write_entry(tmp_path / DEVICES_FILE, NAME, target.model_dump(mode="json", include=keep))
    (tmp_path / "two.yaml").write_text(RECIPE)
    done = edgekd("run", "two.yaml", "--threads", "1", folder=tmp_path, timeout_s=800, **server.environment())
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (tmp_path / ".edgekd" / "runs" / "two").glob("*/measurements.jsonl")
    rows = [json.loads(line) for line in folder.read_text().splitlines()]
    accuracy = {
        (row["subject"]["name"], row["target"]): row["value"] for row in rows if row["quantity"] == "accuracy"
    }
    for subject in {subject for subject, _ in accuracy}:
        assert accuracy[subject, "local"] == accuracy[subject, NAME]
    assert server.sessions == server.tickets == []
    _nothing_tells_where_it_is(server, tmp_path / ".edgekd" / "runs")


def _nothing_tells_where_it_is(server: Sshd, folder: Path) -> None:
    """Not the lock, the record, the events, the measurements or any report."""
    secrets = (f"{user()}@{server.host}", f"{server.host}:{server.port}", server.address)
    texts = {path: path.read_bytes().decode(errors="replace") for path in folder.rglob("*") if path.is_file()}
    assert len(texts) > 5
    assert [path for path, text in texts.items() if any(secret in text for secret in secrets)] == []
