"""Every kind of fault: how it is made at some instant of a round, how it is mended, and what it may tell."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fault_scene import CONTINUE, KILL, STOP, Scene, restore_python, send

from tests.devices.conftest import eventually
from tests.devices.sshd import HOST, make_key, restart, stop

LOST = r"the link to it was lost|cannot be reached|closed the connection|refuses the connection"
AGENT = r"no answer, killed by signal 9"


@dataclass(frozen=True)
class Fault:
    """`make` breaks something (False: there was nothing to break any more); `mend` is called when the command
    has ended, and before it is given again.

    says: what an error may tell, if there is one. while_broken: what the command tells if it is given again
    before anything is mended; None: that is not tried. when: at any instant, before the command starts, or
    while a file goes to the device. ends_host: the command itself is what is ended, so that it tells nothing.
    """

    make: Callable[[Scene], object]
    says: str = LOST
    mend: Callable[[Scene], None] = lambda scene: None
    while_broken: str | None = None
    when: Literal["any", "before", "upload"] = "any"
    ends_host: bool = False

    @property
    def what(self) -> str:
        return (self.make.__doc__ or "").strip()


# --- the cable ----------------------------------------------------------------------------------------------


def pull(scene: Scene) -> None:
    """The cable is pulled, and plugged in again when the command has ended."""
    scene.cable.pull()


def plug(scene: Scene) -> None:
    scene.cable.plug()
    scene.cable.limit(None)
    eventually(scene.server.answers, "the cable carries nothing")


def flap(scene: Scene) -> None:
    """The cable is out for a second and a half."""
    scene.cable.pull()
    time.sleep(1.5)
    scene.cable.plug()


def flap_long(scene: Scene) -> None:
    """The cable is out for fifteen seconds."""
    scene.cable.pull()
    time.sleep(15)
    scene.cable.plug()


def flap_often(scene: Scene) -> None:
    """A loose contact: out and in eight times in four seconds."""
    for _ in range(8):
        scene.cable.pull()
        time.sleep(0.3)
        scene.cable.plug()
        time.sleep(0.2)


def slow(scene: Scene) -> None:
    """The link has one megabit a second from then on."""
    scene.cable.limit("1mbit")


def pull_upload(scene: Scene) -> None:
    """The cable is pulled while a file goes there."""
    scene.cable.pull()


# --- processes ----------------------------------------------------------------------------------------------


def kill_agent(scene: Scene) -> bool:
    """kill -9 of the agent on the device."""
    return send(scene.wait_for(scene.agents), KILL)


def kill_keeper(scene: Scene) -> bool:
    """kill -9 of the keeper on the device."""
    return send(scene.wait_for(scene.server.keepers), KILL)


def kill_login(scene: Scene) -> bool:
    """kill -9 of the server's processes of this connection."""
    return send(scene.wait_for(scene.logins), KILL)


def kill_client(scene: Scene) -> bool:
    """kill -9 of the ssh processes on this machine."""
    return send(scene.wait_for(scene.clients), KILL)


def kill_host(scene: Scene) -> bool:
    """kill -9 of the command itself."""
    assert scene.running is not None
    return not scene.over() and send([scene.running.pid], KILL)


def interrupt_host(scene: Scene) -> bool:
    """Ctrl-C."""
    assert scene.running is not None
    return not scene.over() and send([scene.running.pid], 2)


def stop_agent(scene: Scene) -> bool:
    """SIGSTOP to the agent: it never answers."""
    return send(scene.wait_for(scene.agents), STOP)


def stop_keeper(scene: Scene) -> bool:
    """SIGSTOP to the keeper: the device is deaf, and its place in the queue is taken."""
    return send(scene.wait_for(scene.server.keepers), STOP)


def stop_client(scene: Scene) -> bool:
    """SIGSTOP to the ssh processes on this machine: no sign of life goes out, and none comes in."""
    scene.kept["stopped"] = scene.wait_for(scene.clients)
    return send(scene.kept["stopped"], STOP)


def wake_clients(scene: Scene) -> None:
    send(scene.kept["stopped"], CONTINUE)


def kill_upload(scene: Scene) -> bool:
    """A file is cut short: what receives it on the device is killed."""
    return send(scene.uploads(), KILL)


# --- the device ---------------------------------------------------------------------------------------------


def fill_disk(scene: Scene) -> None:
    """The device's disk is full from then on."""
    with contextlib.suppress(OSError), (scene.server.home / "fill").open("wb", buffering=0) as fill:
        while True:
            fill.write(b"x" * 65536)


def empty_disk(scene: Scene) -> None:
    (scene.server.home / "fill").unlink(missing_ok=True)


def exchange_key(scene: Scene) -> None:
    """Another device answers at its address: the host key is another one, and the connection is gone."""
    folder = scene.server.folder
    scene.kept["keys"] = {name: (folder / name).read_bytes() for name in ("host", "host.pub")}
    for name in scene.kept["keys"]:
        (folder / name).unlink()
    make_key(folder / "host")
    restart(scene.server)


def give_key_back(scene: Scene) -> None:
    for name, content in scene.kept["keys"].items():
        (scene.server.folder / name).write_bytes(content)
    restart(scene.server)


def take_python(scene: Scene) -> None:
    """The device's Python is gone from then on."""
    scene.python.unlink()


def switch_off(scene: Scene) -> None:
    """The device loses its power: every process at once, its files stay."""
    send(scene.agents(), KILL)
    stop(scene.server)


def switch_on(scene: Scene) -> None:
    restart(scene.server)


def remove_ticket(scene: Scene) -> bool:
    """Somebody removes the session's ticket."""
    found = scene.wait_for(lambda: scene.server.tickets) or []
    for path in found:
        path.unlink(missing_ok=True)
    return bool(found)


def remove_folder(scene: Scene) -> bool:
    """Somebody removes the session's folder."""
    found = scene.wait_for(lambda: scene.server.sessions) or []
    for path in found:
        shutil.rmtree(path, ignore_errors=True)
    return bool(found)


def damage_files(scene: Scene) -> bool:
    """Every graph that was pushed is cut to half of its size."""
    found = scene.wait_for(lambda: [p for f in scene.server.sessions for p in f.glob("*.onnx")]) or []
    for path in found:
        os.truncate(path, path.stat().st_size // 2)
    return bool(found)


def hold_lease(scene: Scene) -> None:
    """Somebody else has the device."""
    text = scene.server.target(python=str(scene.python)).model_dump_json()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    holder = subprocess.Popen([sys.executable, "-c", HOST, text], env=environment, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline()
    scene.kept["holder"] = holder


def release_lease(scene: Scene) -> None:
    scene.kept["holder"].kill()
    scene.kept["holder"].communicate()
    eventually(lambda: not scene.server.tickets, "the lease is still held")


KINDS: dict[str, Fault] = {
    "cable pulled": Fault(pull, mend=plug, while_broken="cannot be reached"),
    "cable out for 1.5 s": Fault(flap),
    "cable out for 15 s": Fault(flap_long, mend=plug),
    "loose contact": Fault(flap_often, mend=plug),
    "slow link": Fault(slow, mend=plug),
    "cable pulled during an upload": Fault(pull_upload, says=LOST + "|no progress", mend=plug, when="upload"),
    "agent killed": Fault(kill_agent, says=AGENT),
    "keeper killed": Fault(kill_keeper),
    "server's session killed": Fault(kill_login),
    "local ssh killed": Fault(kill_client),
    "command killed": Fault(kill_host, ends_host=True),
    "command interrupted": Fault(interrupt_host, ends_host=True),
    "agent stopped": Fault(stop_agent, says=r"no answer within \d+ s, killed"),
    "keeper stopped": Fault(stop_keeper, says=r"no answer within \d+ s"),
    "local ssh stopped": Fault(stop_client, says=LOST + r"|no answer within \d+ s", mend=wake_clients),
    "upload cut short": Fault(
        kill_upload,
        says=r"cannot push images.npy: (Killed|it did not arrive whole)",
        mend=plug,
        when="upload",
    ),
    "disk full": Fault(fill_disk, says="full|No space left", mend=empty_disk, while_broken="full|No space"),
    "another host key": Fault(
        exchange_key, says=LOST + "|its host key is", mend=give_key_back, while_broken="its host key is"
    ),
    "python missing": Fault(
        take_python, says=r"cannot start|it has no `", mend=restore_python, while_broken="it has no `"
    ),
    "power cut": Fault(switch_off, mend=switch_on, while_broken="refuses the connection"),
    "ticket removed": Fault(remove_ticket, says="its place in the queue was lost"),
    "folder removed": Fault(
        remove_folder, says="cannot start|cannot push|cannot pull|no answer|FileNotFound"
    ),
    "graph damaged": Fault(damage_files, says="arrived damaged"),
    "lease held": Fault(hold_lease, says="busy: ", mend=release_lease, while_broken="busy: ", when="before"),
}
