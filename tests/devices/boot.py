"""Gives a command the kernel's view of an emulated board: a root of its own, and who runs its programs.

    python boot.py '{"emulator": .., "root": .., "upper": .., "work": .., "share": .., "at": ..}' COMMAND

All in a user, a mount and a process namespace of their own, so that nothing of the machine changes: a user
namespace may have a binfmt_misc of its own (Linux 6.7), where `emulator` is registered for 64-bit Arm's
programs. `root` appears at `at`; what is written there goes to `upper`, except for the folder `share`, which
is the same on both sides; files below `root`/board lie over those of /proc. COMMAND sees the machine's own
files beside, and is the first process: when it ends, or whoever started this, all others are killed. Without
`root` there is no board. Needs root, for a whole range of users. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
from pathlib import Path

NEWNS, NEWUSER, NEWPID = 0x20000, 0x10000000, 0x20000000
BIND, REC, PRIVATE = 0x1000, 0x4000, 0x40000
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)
BINFMT = Path("/proc/sys/fs/binfmt_misc")
AARCH64 = (
    r":aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
    r":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:{emulator}:OCF"
)
"""The ELF header of a little-endian 64-bit Arm program. F: the emulator is opened now, so a chroot has it."""


def main(settings: dict[str, str], command: list[str]) -> int:
    die_with_parent()
    (told, tell), (mapped, map_) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        die_with_parent()
        check(LIBC.unshare(NEWUSER | NEWNS | NEWPID), "unshare")
        os.write(tell, b"x")
        os.read(mapped, 1)
        os.setgid(0)
        os.setuid(0)
        return first_process(settings, command)
    os.close(tell)
    if os.read(told, 1):  # nothing if it could not unshare
        for kind in ("uid", "gid"):
            Path(f"/proc/{child}/{kind}_map").write_text("0 0 65536\n")
        os.write(map_, b"x")
    return ending(child)


def first_process(settings: dict[str, str], command: list[str]) -> int:
    """The next process that is made is the first of the namespace."""
    child = os.fork()
    if child == 0:
        die_with_parent()
        check(LIBC.mount(b"none", b"/", None, REC | PRIVATE, None), "making mounts private")
        mount("proc", "proc", Path("/proc"))
        mount("binfmt_misc", "binfmt_misc", BINFMT)
        (BINFMT / "register").write_text(AARCH64.format(emulator=settings["emulator"]))
        if "root" in settings:
            build(settings)
        os.execvp(command[0], command)
    return ending(child)


def build(settings: dict[str, str]) -> None:
    """The board's files, with the kernel's own folders."""
    at, share = Path(settings["at"]), Path(settings["share"])
    layers = f"lowerdir={settings['root']},upperdir={settings['upper']},workdir={settings['work']}"
    mount("overlay", "overlay", at, options=f"{layers},userxattr")
    for name in ("proc", "dev", str(share).lstrip("/")):
        (at / name).mkdir(parents=True, exist_ok=True)
    mount("proc", "proc", at / "proc")
    for name in ("null", "zero", "urandom"):
        if not (at / "dev" / name).exists():
            (at / "dev" / name).touch()
        mount(f"/dev/{name}", None, at / "dev" / name, BIND)
    mount(str(share), None, at / share.relative_to("/"), BIND)
    board = at / "board"
    for path in sorted(path for path in board.rglob("*") if path.is_file()):
        mount(str(path), None, at / "proc" / path.relative_to(board), BIND)
    mount("tmpfs", "tmpfs", Path("/run"))  # for sshd's own folder there
    Path("/run/sshd").mkdir()


def mount(source: str, kind: str | None, at: Path, flags: int = 0, options: str = "") -> None:
    words = (source.encode(), os.fsencode(at), kind.encode() if kind else None)
    check(LIBC.mount(*words, flags, options.encode() or None), f"mounting {kind or source} at {at}")


def check(result: int, doing: str) -> None:
    if result != 0:
        sys.exit(f"{doing}: {os.strerror(ctypes.get_errno())}")


def die_with_parent() -> None:
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def ending(child: int) -> int:
    """Wait for it as its parent; SIGTERM is its end."""
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGKILL))
    while True:
        with contextlib.suppress(InterruptedError):
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 255


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1]), sys.argv[2:]))
