"""What a kernel on a board of four Cortex-A76 cores would say of it in /sys and /proc/cpuinfo. Made up.

Without it ONNX Runtime, which asks there for cores and caches, finds this machine's x86 and crashes.
"""

from __future__ import annotations

from pathlib import Path

NUM_CORES = 4
_ALL = f"0-{NUM_CORES - 1}"
_CPU = "sys/devices/system/cpu"
_FEATURES = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
)
_CORE = {
    "BogoMIPS": "108.00",
    "Features": _FEATURES,
    "CPU implementer": "0x41",
    "CPU architecture": "8",
    "CPU variant": "0x4",
    "CPU part": "0xd0b",
    "CPU revision": "1",
}
_CACHES = (
    {"level": "1", "type": "Data", "size": "64K"},
    {"level": "1", "type": "Instruction", "size": "64K"},
    {"level": "2", "type": "Unified", "size": "512K"},
    {"level": "3", "type": "Unified", "size": "2048K", "shared_cpu_list": _ALL},
)
_CLOCK = {"cpuinfo_max_freq": "2400000", "cpuinfo_min_freq": "1500000", "scaling_cur_freq": "2400000"}


def write(root: Path) -> None:
    """Into the board's root; `board/cpuinfo` is meant to lie over /proc/cpuinfo."""
    for path, text in _files().items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text + "\n")


def _files() -> dict[str, str]:
    files = {f"{_CPU}/{name}": _ALL for name in ("possible", "present", "online")}
    files[f"{_CPU}/kernel_max"] = "255"
    for core in range(NUM_CORES):
        files |= {f"{_CPU}/cpu{core}/{path}": text for path, text in _of_core(str(core)).items()}
    files["sys/class/thermal/thermal_zone0/type"] = "cpu-thermal"
    files["sys/class/thermal/thermal_zone0/temp"] = "48312"
    files["board/cpuinfo"] = cpuinfo()
    return files


def _of_core(core: str) -> dict[str, str]:
    shared = ("core_siblings_list", "cluster_cpus_list", "package_cpus_list")
    topology = {"core_id": core, "physical_package_id": "0", "cluster_id": "0", "thread_siblings_list": core}
    topology |= dict.fromkeys(shared, _ALL)
    files = {f"topology/{name}": text for name, text in topology.items()}
    files |= {f"cpufreq/{name}": text for name, text in {**_CLOCK, "scaling_governor": "ondemand"}.items()}
    for number, cache in enumerate(_CACHES):
        whole = {"shared_cpu_list": core, "coherency_line_size": "64", **cache}
        files |= {f"cache/index{number}/{name}": text for name, text in whole.items()}
    return files


def cpuinfo() -> str:
    blocks = (
        "\n".join(f"{key}\t: {value}" for key, value in {"processor": core, **_CORE}.items())
        for core in range(NUM_CORES)
    )
    return "\n\n".join([*blocks, "Model\t\t: four Cortex-A76 cores that qemu emulates"])
