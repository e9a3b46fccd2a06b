"""What the device is and what state it is in, from /proc and /sys. Python 3.8 and newer.

Pushed beside the agent; imports the standard library only. An absent fact is None. `EDGEKD_TEST_ROOT` puts
another tree in the place of /proc and /sys; whatever is read then counts as emulated.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

MARKER = "/etc/edgekd-emulated"
TEST_ROOT = "EDGEKD_TEST_ROOT"
CPU = "/sys/devices/system/cpu"
_ARM_FEATURES = ("neon", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme")
_X86_FEATURES = ("sse4_1", "avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16")
_X86 = ("x86_64", "AMD64", "i686", "i386")
_QEMU_USER = re.compile(r"/qemu-(?:aarch64|arm|armeb|x86_64|i386|riscv64|riscv32|ppc64le)(?:-static)?\b")
_BUSY = (0, 1, 2, 5, 6)
"""Fields of a line of /proc/stat in which something ran: user, nice, system, irq, softirq."""
_COMMAND_S = 5.0


# --- reading ------------------------------------------------------------------------------------------------


def _root() -> str:
    return os.environ.get(TEST_ROOT, "")


def read(path: str) -> str | None:
    """A file's text without its end, NUL as a space; None when it cannot be read."""
    try:
        return Path(_root() + path).read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        return None


def read_int(path: str) -> int | None:
    text = read(path)
    return int(text) if text is not None and text.lstrip("-").isdigit() else None


def below(pattern: str) -> list[str]:
    """Every path that the absolute glob `pattern` names, sorted."""
    root = _root()
    found = Path(root or "/").glob(pattern.lstrip("/"))
    return sorted(str(path)[len(root.rstrip("/")) :] for path in found)


def command(*argv: str) -> str | None:
    """What a program of the device says, None when it is not there or fails."""
    program = shutil.which(argv[0])
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, *argv[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_COMMAND_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace").strip() or None


def core_list(text: str | None) -> list[int]:
    """The kernel's `0-3,6` as numbers."""
    cores: list[int] = []
    for part in re.split(r"[,\s]+", text or ""):
        first, _, last = part.partition("-")
        if first.isdigit():
            cores += range(int(first), int(last or first) + 1)
    return cores


# --- what does not change -----------------------------------------------------------------------------------


def facts() -> dict[str, Any]:
    """The device in the kernel's words."""
    cpu, machine = cpu_lines(), platform.machine()
    flags = set((cpu.get("Features") or cpu.get("flags") or "").split())
    return {
        "machine": machine,
        "model": model(cpu),
        "soc": soc(cpu),
        "cpu": cpu.get("model name") or cpu.get("Hardware") or _arm_name(cpu),
        "cpu_features": [name for name in _ARM_FEATURES + _X86_FEATURES if name in flags],
        "vnni": bool(flags & {"avx512_vnni", "avx_vnni", "asimddp"}),
        "cores": os.cpu_count(),
        "cores_allowed": allowed_cores(),
        "clusters": clusters(),
        "cache_bytes": cache_bytes(),
        "memory_bytes": memory_bytes(),
        "governor": governor(),
        "clock_policies": clock_policies(),
        "power_mode": power_mode(),
        "kernel": platform.release(),
        "os": _os_name(),
        "l4t": read("/etc/nv_tegra_release"),
        "libc": "-".join(platform.libc_ver()).strip("-") or None,
        "python": platform.python_version(),
        "hypervisor": "hypervisor" in flags,
        "emulated": emulation(machine, cpu),
    }


def cpu_lines() -> dict[str, str]:
    """First value of every key of /proc/cpuinfo."""
    found: dict[str, str] = {}
    for line in (read("/proc/cpuinfo") or "").splitlines():
        key, separator, value = line.partition(":")
        if separator:
            found.setdefault(key.strip(), value.strip())
    return found


def cpu_parts() -> dict[int, str]:
    """Core -> its Arm part number (`0xd0b`), where the kernel tells one."""
    parts: dict[int, str] = {}
    core = None
    for line in (read("/proc/cpuinfo") or "").splitlines():
        key, _, value = (text.strip() for text in line.partition(":"))
        if key == "processor" and value.isdigit():
            core = int(value)
        elif key == "CPU part" and core is not None:
            parts[core] = value
    return parts


def model(cpu: dict[str, str]) -> str | None:
    names = ("/proc/device-tree/model", "/sys/devices/virtual/dmi/id/product_name")
    found = [read(name) for name in names] + [cpu.get("Model")]
    return next((name for name in found if name), None) or command("getprop", "ro.product.model")


def soc(cpu: dict[str, str]) -> str | None:
    """The chip: what the kernel's soc bus, the device tree or Android says."""
    named = " ".join(filter(None, (read("/sys/devices/soc0/" + key) for key in ("family", "soc_id"))))
    compatible = (read("/proc/device-tree/compatible") or "").split()
    return named or next(reversed(compatible), None) or command("getprop", "ro.soc.model")


def _arm_name(cpu: dict[str, str]) -> str | None:
    parts = [cpu[key] for key in ("CPU implementer", "CPU part", "CPU revision") if key in cpu]
    return "/".join(parts) or None


def _os_name() -> str | None:
    for line in (read("/etc/os-release") or "").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    release = command("getprop", "ro.build.version.release")
    return f"Android {release}" if release else None


def memory_bytes() -> int | None:
    for line in (read("/proc/meminfo") or "").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return None


def allowed_cores() -> list[int] | None:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def clusters() -> list[dict[str, Any]]:
    """Cores of one kind, the fastest first: big.LITTLE shows as several.

    A kind is the kernel's capacity and the Arm part; where it tells no capacity, the highest clock (Arm) or
    the hybrid type (x86, whose best cores may clock higher and are of the same kind).
    """
    parts, hybrid = cpu_parts(), _hybrid()
    kinds: dict[tuple[Any, ...], list[int]] = {}
    for core in _cores_online():
        path = f"{CPU}/cpu{core}"
        capacity, top = read_int(path + "/cpu_capacity"), read_int(path + "/cpufreq/cpuinfo_max_freq")
        by_clock = top if capacity is None and core in parts else None
        kinds.setdefault((capacity, parts.get(core), hybrid.get(core), by_clock), []).append(core)
    found = []
    for (capacity, part, kind, _), cores in kinds.items():
        tops = [read_int(f"{CPU}/cpu{core}/cpufreq/cpuinfo_max_freq") for core in cores]
        top = max((khz for khz in tops if khz), default=None)
        found.append({"cores": cores, "capacity": capacity, "max_khz": top, "part": part, "kind": kind})
    return sorted(found, key=lambda one: (-(one["capacity"] or 0), -(one["max_khz"] or 0), one["cores"]))


def _hybrid() -> dict[int, str]:
    kinds = {"performance": "cpu_core", "efficiency": "cpu_atom"}
    lists = {kind: core_list(read(f"/sys/devices/{name}/cpus")) for kind, name in kinds.items()}
    return {core: kind for kind, cores in lists.items() for core in cores}


def _cores_online() -> list[int]:
    listed = core_list(read(CPU + "/online"))
    return listed or [int(path.rpartition("cpu")[2]) for path in below(CPU + "/cpu[0-9]*")]


def clock_policies() -> list[dict[str, Any]]:
    """Each group of cores whose clock is set as one: governor and bounds in kHz; `cap_khz` is today's."""
    return [
        {
            "cores": core_list(read(path + "/related_cpus") or read(path + "/affected_cpus")),
            "governor": read(path + "/scaling_governor"),
            "min_khz": read_int(path + "/cpuinfo_min_freq"),
            "max_khz": read_int(path + "/cpuinfo_max_freq"),
            "cap_khz": read_int(path + "/scaling_max_freq"),
        }
        for path in below(CPU + "/cpufreq/policy*")
    ]


def governor() -> str | None:
    """Of all cores; several, joined by commas, where they differ."""
    found = {read(path) for path in below(CPU + "/cpu[0-9]*/cpufreq/scaling_governor")}
    return ",".join(sorted(name for name in found if name)) or None


def power_mode() -> str | None:
    """Of a Jetson its nvpmodel with number and name; else the firmware's platform profile."""
    mode = re.search(r"pmode:\s*(\d+)", read("/var/lib/nvpmodel/status") or "")
    if mode is None:
        return read("/sys/firmware/acpi/platform_profile")
    number = int(mode.group(1))
    named = re.compile(rf"<\s*POWER_MODEL\s+ID={number}\s+NAME=(\S+?)\s*>")
    name = named.search(read("/etc/nvpmodel.conf") or "")
    return f"{number} {name.group(1)}" if name else str(number)


def cache_bytes() -> int | None:
    """Size of the last-level cache, the largest that the kernel lists for core 0."""
    sizes = [read(path) or "" for path in below(CPU + "/cpu0/cache/index*/size")]
    units = {"K": 1 << 10, "M": 1 << 20}
    known = [int(size[:-1]) * units[size[-1]] for size in sizes if size[:-1].isdigit() and size[-1] in units]
    return max(known) if known else None


# --- is it what it looks like? ------------------------------------------------------------------------------


def emulation(machine: str, cpu: dict[str, str]) -> str | None:
    """Why this is not the silicon it looks like, or None."""
    if _root():
        return f"{TEST_ROOT} is set: /proc and /sys are those of a test"
    marker = os.environ.get("EDGEKD_EMULATED") or read(MARKER)
    if marker is not None:
        return marker or "marked as emulated"
    return _emulated_process(machine, cpu) or _emulated_machine(machine, cpu)


def _emulated_process(machine: str, cpu: dict[str, str]) -> str | None:
    """qemu-user: the host's kernel shows through in what qemu does not rewrite."""
    if machine == "aarch64" and "vendor_id" in cpu:
        return "qemu-user: an aarch64 process sees an x86 /proc/cpuinfo"
    kernel = read("/proc/sys/kernel/arch")
    if kernel and kernel in (*_X86, "aarch64") and _family(kernel) != _family(machine):
        return f"a process of {machine} on a kernel of {kernel}: qemu-user or the like"
    if (read("/proc/self/comm") or "").startswith("qemu-"):
        return "qemu-user: the process is called so"
    if _QEMU_USER.search(read("/proc/thread-self/maps") or ""):
        return "qemu-user: it is mapped into the process"
    return None


def _family(machine: str) -> str:
    if machine in _X86:
        return "x86"
    return "arm" if machine.startswith(("arm", "aarch")) else machine


def _emulated_machine(machine: str, cpu: dict[str, str]) -> str | None:
    """qemu-system without KVM: on x86 a guest of KVM has kvm-clock, and TCG names itself."""
    if "dummy-virt" in (read("/proc/device-tree/compatible") or ""):
        return "virtual machine: qemu's `virt` board"
    if "TCG" in cpu.get("model name", ""):
        return "qemu without KVM"
    if machine == "aarch64" and cpu.get("CPU implementer") == "0x00":
        return "qemu without KVM: a CPU of no maker"
    clocks = read("/sys/devices/system/clocksource/clocksource0/available_clocksource")
    maker = read("/sys/devices/virtual/dmi/id/sys_vendor")
    if machine in _X86 and maker == "QEMU" and clocks is not None and "kvm-clock" not in clocks:
        return "qemu without KVM: a machine of QEMU without kvm-clock"
    return None


# --- what changes -------------------------------------------------------------------------------------------


def state() -> dict[str, Any]:
    """What may change while measuring: clocks in kHz, temperatures in mC, throttle counters, ticks, load."""
    lines = (read("/proc/stat") or "").splitlines()
    zones = below("/sys/class/thermal/thermal_zone*")
    return {
        "time": time.time(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "clocks_khz": clocks(),
        "temperatures_mc": {read(zone + "/type") or zone: read_int(zone + "/temp") for zone in zones},
        "throttle_count": throttle_count(),
        "pi_throttled": pi_throttled(),
        "cooling": cpu_cooling(),
        "ticks": [int(value) for value in lines[0].split()[1:]] if lines else None,
        **_share_of_cores(lines),
    }


def clocks() -> dict[str, int | None]:
    """Of the cores that this process may use."""
    path = CPU + "/cpu{}/cpufreq/scaling_cur_freq"
    cores = [core for core in allowed_cores() or [] if Path(_root() + path.format(core)).exists()]
    return {str(core): read_int(path.format(core)) for core in cores}


def throttle_count() -> int | None:
    """How often x86 cores and packages slowed down, or a Jetson's rails drew too much."""
    patterns = (CPU + "/cpu*/thermal_throttle/*_throttle_count", "/sys/class/hwmon/hwmon*/oc*_event_cnt")
    paths = [path for pattern in patterns for path in below(pattern)]
    return sum(read_int(path) or 0 for path in paths) if paths else None


def pi_throttled() -> str | None:
    """A Raspberry Pi's flags as hexadecimal: what is wrong now (bits 0-3), what was since boot (16-19)."""
    found = read("/sys/devices/platform/soc/soc:firmware/get_throttled")
    if found is None and "Raspberry Pi" in (read("/proc/device-tree/model") or ""):
        found = (command("vcgencmd", "get_throttled") or "").partition("=")[2]
    return found or None


def cpu_cooling() -> dict[str, int]:
    """Cooling by slower cores: device -> how many steps the kernel has taken. Fans are not among them."""
    found: dict[str, int] = {}
    for path in below("/sys/class/thermal/cooling_device*"):
        kind, steps = read(path + "/type") or "", read_int(path + "/cur_state")
        if steps is not None and kind.startswith(("Processor", "cpufreq", "thermal-cpufreq", "cpu-")):
            found[f"{path.rpartition('/')[2]} {kind}"] = steps
    return found


def _share_of_cores(lines: list[str]) -> dict[str, Any]:
    """Ticks of the cores that this process may use: all, those in which something ran, and its own."""
    allowed = {f"cpu{core}" for core in allowed_cores() or []}
    cores = [line.split() for line in lines if line.split()[:1] and line.split()[0] in allowed]
    values = [[int(value) for value in line[1:9]] for line in cores]
    own = (read("/proc/self/stat") or "").rpartition(")")[2].split()
    return {
        "core_ticks": sum(map(sum, values)) if values else None,
        "busy_ticks": sum(line[at] for line in values for at in _BUSY) if values else None,
        "own_ticks": int(own[11]) + int(own[12]) if len(own) > 12 else None,
    }


def memory_kb() -> dict[str, int]:
    """VmHWM (peak), VmRSS and its parts of this process; never ru_maxrss, which is inherited over fork."""
    keys = ("VmHWM", "VmRSS", "RssAnon", "RssFile")
    lines = [line.split() for line in (read("/proc/self/status") or "").splitlines()]
    return {line[0][:-1]: int(line[1]) for line in lines if line and line[0][:-1] in keys}
