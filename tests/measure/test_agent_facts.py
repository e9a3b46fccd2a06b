"""What the agent makes of a device's /proc and /sys: trees as such devices have them, written here."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from edgekd.measure import agent_facts, agent_sensors

CPU = "sys/devices/system/cpu"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(agent_facts.TEST_ROOT, str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def core(number: int, part: str) -> str:
    return (
        f"processor\t: {number}\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x41\nCPU part\t: {part}\n"
    )


def test_a_bare_tree_has_no_facts_but_no_errors(tree: Path) -> None:
    facts = agent_facts.facts()
    for name in ("model", "soc", "cpu", "cache_bytes", "memory_bytes", "governor", "power_mode", "os", "l4t"):
        assert facts[name] is None, name
    assert (facts["clusters"], facts["clock_policies"]) == ([], [])
    state = agent_facts.state()
    for name in ("throttle_count", "pi_throttled", "ticks", "busy_ticks", "own_ticks", "core_ticks"):
        assert state[name] is None, name
    assert agent_sensors.energy_sensors() == ([], None)


def test_a_test_tree_counts_as_emulated_so_it_can_make_nothing_valid(tree: Path) -> None:
    assert agent_facts.TEST_ROOT in str(agent_facts.facts()["emulated"])


def test_a_raspberry_pi_5(tree: Path) -> None:
    write(
        tree,
        {
            "proc/cpuinfo": "\n".join(core(i, "0xd0b") for i in range(4)),
            "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
            "proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0",
            "proc/meminfo": "MemTotal:        8245072 kB\nMemFree: 1 kB",
            "etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"',
            f"{CPU}/online": "0-3",
            **{f"{CPU}/cpu{i}/cpu_capacity": "1024" for i in range(4)},
            **{f"{CPU}/cpu{i}/cpufreq/cpuinfo_max_freq": "2400000" for i in range(4)},
            **{f"{CPU}/cpu{i}/cpufreq/scaling_governor": "ondemand" for i in range(4)},
            f"{CPU}/cpufreq/policy0/related_cpus": "0 1 2 3",
            f"{CPU}/cpufreq/policy0/scaling_governor": "ondemand",
            f"{CPU}/cpufreq/policy0/cpuinfo_min_freq": "1500000",
            f"{CPU}/cpufreq/policy0/cpuinfo_max_freq": "2400000",
            f"{CPU}/cpufreq/policy0/scaling_max_freq": "2000000",
            "sys/devices/platform/soc/soc:firmware/get_throttled": "50005",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
            "sys/class/thermal/thermal_zone0/temp": "84900",
            "sys/class/thermal/cooling_device0/type": "pwm-fan",
            "sys/class/thermal/cooling_device0/cur_state": "4",
            "sys/class/thermal/cooling_device1/type": "cpufreq-cpu0",
            "sys/class/thermal/cooling_device1/cur_state": "2",
        },
    )
    facts = agent_facts.facts()
    assert facts["model"] == "Raspberry Pi 5 Model B Rev 1.0"
    assert facts["soc"] == "brcm,bcm2712"
    assert facts["cpu"] == "0x41/0xd0b"
    assert facts["vnni"] is True, "dotprod"
    assert facts["memory_bytes"] == 8245072 * 1024
    assert facts["governor"] == "ondemand"
    (cluster,) = facts["clusters"]
    assert cluster == {
        "cores": [0, 1, 2, 3],
        "capacity": 1024,
        "max_khz": 2400000,
        "part": "0xd0b",
        "kind": None,
    }
    (policy,) = facts["clock_policies"]
    assert (policy["cores"], policy["cap_khz"]) == ([0, 1, 2, 3], 2000000)
    state = agent_facts.state()
    assert state["pi_throttled"] == "50005"
    assert state["temperatures_mc"] == {"cpu-thermal": 84900}
    assert state["cooling"] == {"cooling_device1 cpufreq-cpu0": 2}, "a fan slows nothing down"


def test_a_pi_without_the_sysfs_file_is_asked_by_vcgencmd(tree: Path) -> None:
    write(
        tree,
        {"proc/device-tree/model": "Raspberry Pi 4 Model B", "bin/vcgencmd": "#!/bin/sh\necho throttled=0x4"},
    )
    (tree / "bin" / "vcgencmd").chmod(0o755)
    assert agent_facts.pi_throttled() == "0x4"


def test_big_and_little_cores_are_clusters_the_big_ones_first(tree: Path) -> None:
    parts = ["0xd05"] * 4 + ["0xd0b"] * 4
    write(
        tree,
        {
            "proc/cpuinfo": "\n".join(core(i, part) for i, part in enumerate(parts)),
            f"{CPU}/online": "0-7",
            **{f"{CPU}/cpu{i}/cpu_capacity": "530" if i < 4 else "1024" for i in range(8)},
            **{f"{CPU}/cpu{i}/cpufreq/scaling_governor": "schedutil" for i in range(4)},
            **{f"{CPU}/cpu{i}/cpufreq/scaling_governor": "performance" for i in range(4, 8)},
        },
    )
    assert [cluster["cores"] for cluster in agent_facts.clusters()] == [[4, 5, 6, 7], [0, 1, 2, 3]]
    assert agent_facts.governor() == "performance,schedutil"


def test_hybrid_x86_cores_are_clusters_and_favored_ones_are_not(tree: Path) -> None:
    write(
        tree,
        {
            "proc/cpuinfo": "processor : 0\nmodel name : Intel",
            f"{CPU}/online": "0-3,6",
            "sys/devices/cpu_core/cpus": "0-1",
            "sys/devices/cpu_atom/cpus": "2-3,6",
            f"{CPU}/cpu0/cpufreq/cpuinfo_max_freq": "5200000",
            f"{CPU}/cpu1/cpufreq/cpuinfo_max_freq": "5000000",
        },
    )
    found = [(cluster["cores"], cluster["kind"]) for cluster in agent_facts.clusters()]
    assert found == [([0, 1], "performance"), ([2, 3, 6], "efficiency")]


def test_a_jetson_tells_its_power_mode_throttling_and_board_power(tree: Path) -> None:
    rails = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    write(
        tree,
        {
            "var/lib/nvpmodel/status": "pmode:0002 fmode:quiet",
            "etc/nvpmodel.conf": "< POWER_MODEL ID=1 NAME=7W >\n< POWER_MODEL ID=2 NAME=MODE_15W >",
            "etc/nv_tegra_release": "# R36 (release), REVISION: 4.0",
            "sys/devices/soc0/family": "Tegra",
            "sys/devices/soc0/soc_id": "35",
            "sys/class/hwmon/hwmon1/oc1_event_cnt": "2",
            "sys/class/hwmon/hwmon1/oc3_event_cnt": "1",
            f"{rails}/in1_input": "5000",
            f"{rails}/in1_label": "VDD_IN",
            f"{rails}/curr1_input": "2000",
            f"{rails}/in2_input": "5000",
            f"{rails}/in2_label": "VDD_CPU_GPU_CV",
            f"{rails}/curr2_input": "400",
            f"{rails}/in7_input": "99",
        },
    )
    facts = agent_facts.facts()
    assert facts["power_mode"] == "2 MODE_15W"
    assert facts["soc"] == "Tegra 35"
    assert facts["l4t"].startswith("# R36")
    assert agent_facts.throttle_count() == 3
    (rail,), unreadable = agent_sensors.energy_sensors()
    assert (rail["name"], unreadable) == ("VDD_IN", None), "its input has all rails in it"


def test_throttle_counters_of_x86_are_added_up(tree: Path) -> None:
    write(
        tree,
        {
            f"{CPU}/cpu{i}/thermal_throttle/{what}_throttle_count": "3"
            for i in (0, 1)
            for what in ("core", "package")
        },
    )
    assert agent_facts.throttle_count() == 12


def test_ticks_are_those_of_the_allowed_cores_and_of_this_process(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_facts, "allowed_cores", lambda: [1])
    stat = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 9 9 9 9 9 9 9 9 0 0\ncpu1 10 1 5 80 2 1 1 4 7 0\nintr 1"
    write(tree, {"proc/stat": stat, "proc/self/stat": "7 (a) b) R 1 1 1 0 -1 0 0 0 0 0 12 3 0 0 20"})
    state = agent_facts.state()
    assert state["core_ticks"] == 104
    assert state["busy_ticks"] == 10 + 1 + 5 + 1 + 1, "idle, waiting and stolen time are not work"
    assert state["own_ticks"] == 15
    assert state["ticks"][0] == 9


def test_rapl_packages_and_memory_count_once(tree: Path) -> None:
    zones = {
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "dram",
        "intel-rapl:1": "psys",
    }
    write(tree, {f"sys/class/powercap/{zone}/name": name for zone, name in zones.items()})
    write(tree, {f"sys/class/powercap/{zone}/energy_uj": "1" for zone in zones})
    assert [one["name"] for one in agent_sensors.energy_sensors()[0]] == ["package-0", "dram"]


def test_a_battery_is_a_sensor_only_while_it_discharges(tree: Path) -> None:
    battery = "sys/class/power_supply/BAT0"
    files = {"type": "Battery", "status": "Charging", "voltage_now": "4000000", "current_now": "-500000"}
    write(tree, {f"{battery}/{name}": text for name, text in files.items()})
    assert agent_sensors.energy_sensors() == ([], None)
    write(tree, {f"{battery}/status": "Discharging"})
    (sensor,), _ = agent_sensors.energy_sensors()
    assert sensor["voltage"].endswith("voltage_now")


@pytest.mark.parametrize(
    ("machine", "files", "word"),
    [
        ("aarch64", {"proc/sys/kernel/arch": "x86_64"}, "on a kernel of x86_64"),
        ("x86_64", {"proc/sys/kernel/arch": "aarch64"}, "on a kernel of aarch64"),
        ("x86_64", {"proc/self/comm": "qemu-x86_64-sta"}, "called so"),
        (
            "x86_64",
            {"proc/thread-self/maps": "00400000 r-xp 0 00:1f 7 /usr/bin/qemu-x86_64-static"},
            "mapped",
        ),
        ("aarch64", {"proc/device-tree/compatible": "linux,dummy-virt"}, "`virt` board"),
        (
            "x86_64",
            {
                "sys/devices/virtual/dmi/id/sys_vendor": "QEMU",
                "sys/devices/system/clocksource/clocksource0/available_clocksource": "tsc hpet acpi_pm",
            },
            "without kvm-clock",
        ),
        ("i686", {"proc/sys/kernel/arch": "x86_64"}, None),
        ("armv7l", {"proc/sys/kernel/arch": "aarch64"}, None),
        ("x86_64", {"proc/thread-self/maps": "00400000 r-xp 0 00:1f 7 /opt/qemu-tests/bin/python3"}, None),
        (
            "x86_64",
            {
                "sys/devices/virtual/dmi/id/sys_vendor": "QEMU",
                "sys/devices/system/clocksource/clocksource0/available_clocksource": "kvm-clock tsc",
            },
            None,
        ),
    ],
)
def test_emulators_show_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str, files: dict[str, str], word: str | None
) -> None:
    """Read by path from a tree, but without the variable, which alone would count as emulated."""
    write(tmp_path, files)
    monkeypatch.setattr(agent_facts, "read", lambda path: _text(tmp_path / path.lstrip("/")))
    found = agent_facts.emulation(machine, {})
    assert (found is None) == (word is None)
    assert word is None or word in str(found)


def _text(path: Path) -> str | None:
    return path.read_text().strip() if path.is_file() else None


def test_this_machine_is_not_taken_for_an_emulated_one() -> None:
    assert agent_facts.emulation(platform.machine(), agent_facts.cpu_lines()) is None
