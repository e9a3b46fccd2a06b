"""`edgekd device`: the devices of a project, from adding one to leaving it as it was."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd.cli.options import JsonOption, WaitOption, waiting_for

if TYPE_CHECKING:
    from edgekd.pipeline.devices import Newcomer

app = typer.Typer(no_args_is_help=True, help="Devices to measure on: add, look at, set up, prepare, clean.")

NameArgument = Annotated[str, typer.Argument(help="A device's name in edgekd-devices.yaml.")]


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="What recipes will call it.")],
    address: Annotated[str, typer.Argument(help="ssh://user@host[:port], or adb://SERIAL (experimental).")],
    python: Annotated[
        str | None, typer.Option(help="Its Python with NumPy and the runtime; default python3.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the runtime; default 1.")] = None,
    cores: Annotated[str | None, typer.Option(help="Cores to pin to, as `4,5,6,7`.")] = None,
    cache: Annotated[
        str | None, typer.Option(help="Keep this much there between sessions, as `200MB`; default nothing.")
    ] = None,
    host_key: Annotated[
        str | None,
        typer.Option(help="Its public host key, or a file with it, in place of asking the device for it."),
    ] = None,
    fingerprint: Annotated[str | None, typer.Option(help="What its host key must be: SHA256:...")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Pin the key that it shows unseen.")] = False,
) -> None:
    """Name a device, pin its host key after showing it, and say what it is.

    The address goes into a private file of yours and never into the project. Given again, the name gets a new
    address and key and keeps its other settings.
    """
    from edgekd.pipeline.devices import add as add_device
    from edgekd.pipeline.devices import meet

    fields = {"python": python, "threads": threads, "cores": _cores(cores), "cache": cache}
    newcomer = meet(name, address, host_key=host_key, fingerprint=fingerprint)
    _confirm(newcomer, yes)
    for line in add_device(newcomer, {key: value for key, value in fields.items() if value is not None}):
        typer.echo(line)
    _introduce(name)


def _cores(text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter("write numbers with commas, as `4,5,6,7`", param_hint="--cores") from None


def _confirm(newcomer: Newcomer, yes: bool) -> None:
    """No key is pinned that nobody has answered for."""
    from edgekd.core.errors import UsageError
    from edgekd.pipeline.devices import SHOW_KEY

    key = newcomer.key
    if key is None:
        return
    if newcomer.changed:
        typer.echo(f"WARNING: so far {newcomer.name} was known by {newcomer.pinned}", err=True)
    typer.echo(f"host key of {newcomer.name}: {key.fingerprint} ({key.kind})")
    if newcomer.given or yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(
            "nobody is there to compare its host key",
            where=newcomer.name,
            fix=f"--fingerprint SHA256:... (on the device: `{SHOW_KEY}`), or --yes to trust what it shows",
        )
    typer.echo(f"on the device, `{SHOW_KEY}` shows the right one")
    typer.confirm("Is it the same?", abort=True)


def _introduce(name: str) -> None:
    """Log in for the first time. Raises `TargetError`; the device stays added."""
    from edgekd.core.errors import TargetError
    from edgekd.pipeline.device_look import look, machine_of, portrait
    from edgekd.pipeline.devices import find_remote

    target = find_remote(name)
    try:
        lines = portrait(name, look(target))
    except TargetError as error:
        machine = machine_of(target)
        typer.echo(
            f"{name} is added, but not ready{f' ({machine})' if machine else ''}; once it is: ", nl=False
        )
        typer.echo(f"edgekd device doctor {name}")
        raise error
    for line in lines:
        typer.echo(line)


@app.command("list")
def list_(json_: JsonOption = False) -> None:
    """The project's devices, and where their addresses are from."""
    import json

    from edgekd.pipeline.devices import listed

    rows = listed()
    if json_:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        source = row["address_from"] or "address unknown on this machine"
        typer.echo(f"{row['name']:<16} {row['kind']:<6} {source:<40} {row.get('fingerprint', '')}".rstrip())


@app.command("show")
def show(
    name: NameArgument,
    address: Annotated[bool, typer.Option("--address", help="Tell the address, too.")] = False,
    json_: JsonOption = False,
) -> None:
    """What the project says of a device; nothing is asked of the device itself."""
    import json

    from edgekd.pipeline.devices import told
    from edgekd.targets.addresses import find_address

    row = told(name) | ({"address": find_address(name)} if address else {})
    if json_:
        typer.echo(json.dumps(row))
        return
    for key, value in row.items():
        typer.echo(f"{key:<14} {value}")


@app.command("doctor")
def doctor(name: NameArgument, json_: JsonOption = False) -> int:
    """Log in and say what the device is, what it lacks, and what would disturb measuring. 4: not ready."""
    import json
    from dataclasses import asdict

    from edgekd.core.errors import TargetError
    from edgekd.pipeline.device_look import examine, look
    from edgekd.pipeline.devices import find_remote

    target = find_remote(name)
    found = look(target)
    checks = examine(target, found)
    if json_:
        runtimes = asdict(found.runtimes) if found.runtimes else None
        typer.echo(
            json.dumps(
                {"checks": [asdict(one) for one in checks], "facts": found.facts, "runtimes": runtimes}
            )
        )
    else:
        for check in checks:
            typer.echo(f"{check.state:<5} {check.text}")
    return TargetError.exit_code if any(check.state == "bad" for check in checks) else 0


@app.command("setup")
def setup(
    name: NameArgument,
    base: Annotated[str, typer.Option(help="The Python that the environment is made of.")] = "python3",
    offline: Annotated[
        bool, typer.Option("--offline", help="The device has no internet: fetch here and push.")
    ] = False,
    backend: Annotated[
        list[str], typer.Option(help="Whose runtime is installed (several: repeat); `edgekd list backends`.")
    ] = ["onnx"],  # noqa: B006 - typer reads it, and nothing changes it
    wait: WaitOption = None,
) -> None:
    """Make a virtual environment with the runtime on the device, and name it in the devices file."""
    from edgekd.pipeline.device_care import set_up_device

    with waiting_for(wait):
        for line in set_up_device(name, base=base, offline=offline, backends=backend):
            typer.echo(line)


@app.command("prepare")
def prepare(
    name: NameArgument,
    power_mode: Annotated[
        str | None, typer.Option(help="A Jetson's power mode, by name or number; default: stays.")
    ] = None,
    wait: WaitOption = None,
) -> int:
    """Set governor and clocks to their fastest for steady times; `restore` puts them back."""
    from edgekd.pipeline.device_care import prepare_device

    with waiting_for(wait):
        return _tended(prepare_device(name, power_mode=power_mode))


@app.command("restore")
def restore(name: NameArgument, wait: WaitOption = None) -> int:
    """Put back what `prepare` changed."""
    from edgekd.pipeline.device_care import restore_device

    with waiting_for(wait):
        return _tended(restore_device(name))


def _tended(done: Any) -> int:
    from edgekd.core.errors import TargetError

    for line in done.lines:
        typer.echo(line)
    for problem in done.problems:
        typer.echo(problem, err=True)
    return TargetError.exit_code if done.problems else 0


@app.command("clean")
def clean(name: NameArgument, wait: WaitOption = None) -> int:
    """Remove everything that edgekd keeps on the device: environment, cache, leftovers."""
    from edgekd.pipeline.device_care import clean_device

    with waiting_for(wait):
        return _tended(clean_device(name))


@app.command("remove")
def remove(name: NameArgument) -> None:
    """Forget a device and its address. What is on the device stays: `clean` it before."""
    from edgekd.pipeline.devices import remove as remove_device

    for line in remove_device(name):
        typer.echo(line)
