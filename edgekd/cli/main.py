"""The command line: `edgekd COMMAND`, its errors and its exit codes."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# Threads that wait without spinning: with another process on the same cores, a training step of ResNet-20
# took 0.83 s spinning and 0.09 s so (two threads, two busy cores; docs/decisions/0014).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import typer

from edgekd.cli import (
    ablate,
    audit,
    bench,
    bundle,
    device,
    doctor,
    export,
    gate,
    history,
    init,
    kit,
    listing,
    measure,
    plan,
    predict,
    report,
    run,
    schema,
    setup,
    show,
    store,
    validate,
    verify,
)
from edgekd.core.errors import (
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    EdgekdError,
    MissingDependencyError,
    StoreError,
)

EXIT_CODES = """
Exit codes: 0 pass · 1 a limit failed · 2 bad input · 3 inconclusive · 4 target lost ·
5 store or disk · 6 missing optional dependency · 7 training diverged · 70 internal error ·
75 stopped at --max-time, resumable · 130/143 interrupted.
"""

_CLICK_ERROR: Any = typer.BadParameter.__mro__[2]
"""ClickException: click's own, or that of the copy of click that newer typers hold (0.29 does)."""
_EXIT_BROKEN_PIPE = 141
"""As of any program that SIGPIPE ends: who reads the output is gone, which is no verdict."""
_TRAIN = ("torch", "torchvision", "onnxscript", "optuna", "sklearn")
_EXTRA_OF = {**dict.fromkeys(_TRAIN, "train"), "timm": "timm"}
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})
_received: list[int] = []
"""Signals that asked this process to stop: typer answers every interruption with 130."""

app = typer.Typer(
    name="edgekd",
    help="A trained network to an edge device: distill, quantize, export, measure and judge the artifact."
    "\n\nStart with: edgekd run quickstart",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("init", rich_help_panel="Recipes")(init.command)
app.command("validate", rich_help_panel="Recipes")(validate.command)
app.command("plan", rich_help_panel="Recipes")(plan.command)
app.command("run", rich_help_panel="Recipes")(run.command)
app.command("ablate", rich_help_panel="Recipes")(ablate.command)
app.command("export", rich_help_panel="Recipes")(export.command)
app.command("audit", rich_help_panel="Results")(audit.command)
app.command("bench", rich_help_panel="Results")(bench.command)
app.command("measure", rich_help_panel="Results")(measure.command)
app.command("report", rich_help_panel="Results")(report.command)
app.command("gate", rich_help_panel="Results")(gate.command)
app.command("history", rich_help_panel="Results")(history.command)
app.command("show", rich_help_panel="Results")(show.command)
app.command("bundle", rich_help_panel="Bundles")(bundle.command)
app.command("verify", rich_help_panel="Bundles")(verify.command)
app.command("predict", rich_help_panel="Bundles")(predict.command)
app.command("list", rich_help_panel="About")(listing.command)
app.command("schema", rich_help_panel="About")(schema.command)
app.command("setup", rich_help_panel="About")(setup.command)
app.command("doctor", rich_help_panel="About")(doctor.command)
app.add_typer(device.app, name="device", rich_help_panel="Devices")
app.add_typer(kit.app, name="kit", rich_help_panel="Devices")
app.add_typer(store.app, name="store", rich_help_panel="About")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit the process."""
    signal.signal(signal.SIGTERM, _on_terminate)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal without Unicode shows `?`, and no error
        sys.stdout.reconfigure(errors="replace")
    sys.exit(exit_code_of(list(sys.argv[1:] if argv is None else argv)))


def exit_code_of(argv: list[str]) -> int:
    """Run one command, tell its error on standard error, and return the code that it ends with."""
    try:
        result = typer.main.get_command(app).main(args=argv, prog_name="edgekd", standalone_mode=False)
        sys.stdout.flush()
    except EdgekdError as error:
        _say(f"error: {error}")
        return error.exit_code
    except _CLICK_ERROR as error:
        error.show()
        return int(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except (BrokenPipeError, SystemExit):  # typer turns the first into the second
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _EXIT_BROKEN_PIPE
    except ModuleNotFoundError as error:
        return _missing(error)
    except OSError as error:
        return _disk_full(error) if error.errno in _DISK_ERRORS else _internal(error)
    except Exception as error:
        return _internal(error)
    return _interrupted() if result == EXIT_INTERRUPTED else result if isinstance(result, int) else 0


def _interrupted() -> int:
    _say("interrupted; nothing is lost: run the same command again to continue")
    return EXIT_TERMINATED if signal.SIGTERM in _received else EXIT_INTERRUPTED


def _missing(error: ModuleNotFoundError) -> int:
    """A package of an extra that nothing had asked for until it was needed."""
    package = (error.name or "").partition(".")[0]
    if package not in _EXTRA_OF:
        return _internal(error)
    missing = MissingDependencyError(package, extra=_EXTRA_OF[package])
    _say(f"error: {missing}")
    return missing.exit_code


def _disk_full(error: OSError) -> int:
    """Wherever it happens: a temporary folder or a library's own writing may be the first to notice."""
    where = f"{error.filename}: " if error.filename else ""
    _say(f"error: {where}cannot write: {error.strerror}")
    _say("  fix: free disk space, or choose another folder (`--store DIR`, TMPDIR). Finished steps are kept.")
    return StoreError.exit_code


def _internal(error: Exception) -> int:
    if os.environ.get("EDGEKD_TRACEBACK"):
        traceback.print_exc()
    _say(f"internal error: {type(error).__name__}: {error}")
    _say("this is a defect of edgekd; EDGEKD_TRACEBACK=1 shows where. Finished steps are kept.")
    return EdgekdError.exit_code


def _on_terminate(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    raise KeyboardInterrupt


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
