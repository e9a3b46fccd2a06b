"""A synthetic /sys tree and scripted Jetson tools: what `prepare` reads and sets, without such a device."""

from __future__ import annotations

from pathlib import Path

import pytest

# As JetPack's own print it, warnings beside included; `mode` holds the number.
NVPMODEL = """
cd "$(dirname "$0")/.."
case "$1" in
-q) echo "NVPM WARN: fan mode is not set!"
    echo "NV Power Mode: $(sed -n "$(($(cat mode) + 1))p" names)"
    cat mode;;
-m) {on_set}
    echo "$2" > mode;;
esac
"""
JETSON_CLOCKS = """
cd "$(dirname "$0")/.."
echo "$@" >> clocks.log
case "$1" in
--store) [ ! -e "$2" ] || {{ echo "File exists. Overwrite?"; read answer; exit 1; }}; cp clocks "$2";;
--restore) {on_restore}
    cp "$2" clocks;;
"") {on_set}
    echo highest > clocks;;
esac
"""
KILL_CALLER = "kill -9 $PPID; exit 1"
ASK_FOR_REBOOT = """echo "NVPM WARN: Reboot required for changing to this power mode: $2"
echo "NVPM WARN: DO YOU WANT TO REBOOT NOW? enter YES/yes to confirm:"
read answer; [ "$answer" != yes ] || touch rebooted; exit 0"""


class SyntheticDevice:
    """Two clock domains of two cores; `below` is what stands in front of /sys and /etc."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.below = folder / "device"
        self.cache = folder / "cache"
        self.state = self.cache / "edgekd" / "prepared.json"
        cpu = self.below / "sys/devices/system/cpu"
        for number, lowest, highest in ((0, 600000, 1800000), (2, 800000, 2400000)):
            policy = cpu / f"cpufreq/policy{number}"
            policy.mkdir(parents=True)
            (policy / "scaling_governor").write_text("ondemand\n")
            (policy / "scaling_available_governors").write_text("conservative ondemand performance\n")
            (policy / "scaling_min_freq").write_text(f"{lowest}\n")
            (policy / "scaling_max_freq").write_text(f"{highest}\n")
            for core in (number, number + 1):
                (cpu / f"cpu{core}").mkdir()
                (cpu / f"cpu{core}/cpufreq").symlink_to(f"../cpufreq/policy{number}")
        (folder / "bin").mkdir()
        self._folder = folder
        monkeypatch.setenv("PATH", str(folder / "bin"), prepend=":")
        monkeypatch.setenv("XDG_CACHE_HOME", str(self.cache))

    def settings(self) -> list[str]:
        """Governor and lowest clock of each domain, then what the Jetson tools hold."""
        policies = sorted(self.below.glob("sys/devices/system/cpu/cpufreq/*"))
        cpu = [
            (p / name).read_text().strip()
            for p in policies
            for name in ("scaling_governor", "scaling_min_freq")
        ]
        jetson = [path.read_text().strip() for path in map(self.file, ("mode", "clocks")) if path.exists()]
        return cpu + jetson

    def file(self, name: str) -> Path:
        return self._folder / name

    def tool(self, name: str, text: str) -> Path:
        path = self._folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    def make_jetson(self, *, on_mode: str = ":", on_clocks: str = ":", on_restore: str = ":") -> None:
        """Modes MAXN (0), 15W (1) and 7W (2), 15W being set."""
        (self.below / "etc").mkdir(exist_ok=True)
        modes = "".join(
            f"< POWER_MODEL ID={i} NAME={n} >\nCPU_ONLINE CORE_1 1\n" for i, n in enumerate(MODES)
        )
        (self.below / "etc/nvpmodel.conf").write_text(modes)
        self.file("names").write_text("\n".join(MODES) + "\n")
        if not self.file("mode").exists():
            self.file("mode").write_text("1\n")
            self.file("clocks").write_text("dynamic\n")
        self.tool("nvpmodel", NVPMODEL.format(on_set=on_mode))
        self.tool("jetson_clocks", JETSON_CLOCKS.format(on_set=on_clocks, on_restore=on_restore))


MODES = ("MAXN", "15W", "7W")
