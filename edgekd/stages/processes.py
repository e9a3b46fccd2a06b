"""One training on several processes of this machine: torchrun starts them, this side tells and stops them.

The parent writes what is to be trained into a folder and starts `python -m torch.distributed.run`; every
process runs `main` of this module, which trains its share of each batch. The leading one writes the weights.
A file named `stop` asks them to save and end; they also end when the parent is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core import errors
from edgekd.core.durable import write_json
from edgekd.core.errors import DivergedError, EdgekdError, UsageError
from edgekd.core.events import Emit
from edgekd.stages.context import Data, StageContext

if TYPE_CHECKING:
    from edgekd.distill.settings import DistillSettings
    from edgekd.networks.model import Model
    from edgekd.stages.training_settings import TrainingConfig

JOB, RESULT, STOP, FAILURE = "job.json", "result.json", "stop", "failure.json"


def train_together(
    context: StageContext,
    config: TrainingConfig,
    model: Model,
    *,
    teachers: Sequence[Model],
    settings: DistillSettings,
    num_epochs: int | None,
    folder: Path,
) -> list[Mapping[str, Any]]:
    """Train `model` in place on `config.processes` processes; returns one entry an epoch.

    Raises what training raises, and `UsageError` for a training time in place of epochs: the processes must
    agree on the number of updates beforehand.
    """
    from edgekd.networks.model import load_model

    if config.time is not None and num_epochs is None:
        raise UsageError("`time` needs one process", fix="give `epochs` with `processes`")
    job = folder / "processes"
    shutil.rmtree(job, ignore_errors=True)
    _write_job(job, context, config, model, teachers, settings, num_epochs, folder)
    _run(job, context, config.processes)
    trained = load_model(job / "trained", trust_code=context.trust_code)
    model.module.load_state_dict(trained.module.state_dict())
    model.module.eval()
    history: list[Mapping[str, Any]] = json.loads((job / RESULT).read_bytes())["history"]
    shutil.rmtree(job, ignore_errors=True)
    return history


def _write_job(
    job: Path,
    context: StageContext,
    config: TrainingConfig,
    model: Model,
    teachers: Sequence[Model],
    settings: DistillSettings,
    num_epochs: int | None,
    folder: Path,
) -> None:
    from edgekd.networks.model import save_model

    for name, saved in {"student": model, **{f"teacher{n}": t for n, t in enumerate(teachers)}}.items():
        (job / name).mkdir(parents=True)
        save_model(job / name, saved)
    source = context.data.source
    write_json(
        job / JOB,
        {
            "store": str(context.data.store_root),
            "source": _class_of(source),
            "source_settings": source.model_dump(mode="json"),
            "config": _class_of(config),
            "config_settings": config.model_dump(mode="json"),
            "settings": settings.model_dump(mode="json"),
            "num_teachers": len(teachers),
            "num_epochs": num_epochs,
            "checkpoints": str(folder),
            "seed": context.seed,
            "device": context.device,
            "threads": max(1, context.threads // config.processes),
            "trust_code": context.trust_code,
            "basis": dict(context.basis),
            "parent": os.getpid(),
        },
    )


def _class_of(value: object) -> str:
    return f"{type(value).__module__}:{type(value).__qualname__}"


def _run(job: Path, context: StageContext, processes: int) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *launcher, "-m", "edgekd.stages.processes", str(job)]
    with (job / "errors.txt").open("w") as said:
        # A session of its own: Ctrl-C reaches this process alone, which then asks for an orderly end.
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=said, text=True, start_new_session=True
        )
        with _stopping(child, job):
            for line in child.stdout or ():
                _tell(line, context.emit)
                if context.should_stop():
                    (job / STOP).touch()
            child.wait()
    _raise_failure(job, child.returncode)


@contextlib.contextmanager
def _stopping(child: subprocess.Popen[str], job: Path) -> Iterator[None]:
    """Whatever ends this block ends the processes as well, after they have saved."""
    try:
        yield
    except BaseException:
        (job / STOP).touch()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=60)
        child.kill()
        raise


def _tell(line: str, emit: Emit) -> None:
    with contextlib.suppress(ValueError):  # a library's own words
        event = json.loads(line)
        if isinstance(event, dict) and "event" in event:
            emit(event)


def _raise_failure(job: Path, code: int) -> None:
    path = job / FAILURE
    if path.exists():
        failure = json.loads(path.read_bytes())
        kind = getattr(errors, failure["kind"])
        raise kind(failure["what"], where=failure["where"], fix=failure["fix"])
    if code or not (job / RESULT).exists():
        said = (job / "errors.txt").read_text(errors="replace").strip().splitlines()[-15:]
        raise EdgekdError(f"a training process ended with code {code}: " + "\n".join(said), where=str(job))


# ---- In the processes ----------------------------------------------------------------------------


def main(job: Path) -> None:
    """Train this process's share of the job in `job`; run by torchrun."""
    from edgekd.train.world import joined

    told = json.loads((job / JOB).read_bytes())
    with joined() as world:
        context = _context(job, told, leads=world.leads)
        try:
            _train(job, told, context, world)
        except EdgekdError as error:
            if world.leads or isinstance(error, DivergedError):
                what = {"what": error.what, "where": error.where, "fix": error.fix}
                write_json(job / FAILURE, {"kind": type(error).__name__, **what})
            raise SystemExit(error.exit_code) from error


def _context(job: Path, told: Mapping[str, Any], *, leads: bool) -> StageContext:
    from edgekd.store.store import Store

    source = _loaded(told["source"]).model_validate(told["source_settings"])
    return StageContext(
        folder=job,
        seed=told["seed"],
        data=Data(source.open(source.split_seed), source, Store(Path(told["store"]))),
        targets=(),
        limits=(),
        journal=lambda name, compute: compute(),
        emit=_print if leads else lambda event: None,
        should_stop=_stop_asked(job, told["parent"]),
        device=told["device"],
        threads=told["threads"],
        trust_code=told["trust_code"],
        basis=told["basis"],
    )


def _print(event: Mapping[str, Any]) -> None:
    print(json.dumps(event), flush=True)


def _stop_asked(job: Path, parent: int) -> Callable[[], bool]:
    def asked() -> bool:
        try:
            os.kill(parent, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return (job / STOP).exists()

    return asked


def _train(job: Path, told: Mapping[str, Any], context: StageContext, world: Any) -> None:
    from edgekd.distill.settings import DistillSettings
    from edgekd.networks.model import load_model, save_model
    from edgekd.stages.training import train

    names = ["student", *(f"teacher{number}" for number in range(told["num_teachers"]))]
    model, *teachers = [load_model(job / name, trust_code=context.trust_code) for name in names]
    config: TrainingConfig = _loaded(told["config"]).model_validate(told["config_settings"])
    checkpoints = Path(told["checkpoints"])
    history = train(
        replace(context, folder=checkpoints.parent),
        config,
        model,
        teachers=teachers,
        settings=DistillSettings.model_validate(told["settings"]),
        num_epochs=told["num_epochs"],
        name=checkpoints.name,
        world=world,
    )
    if world.leads:
        save_model(job / "trained", model)
        write_json(job / RESULT, {"history": history})


def _loaded(name: str) -> Any:
    import importlib

    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
