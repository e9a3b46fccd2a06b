"""Where energy can be read on the device: sensors only, nothing is ever estimated. Python 3.8 and newer.

Pushed beside the agent; imports the standard library only.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__:
    from .agent_facts import below, read
else:  # on the device, where the files lie side by side
    from agent_facts import below, read


def energy_sensors() -> tuple[list[dict[str, str]], str | None]:
    """The sensors that can be read, the best kind only, and what is there but may not be read.

    kinds: `rapl` (a counter in uJ), `rail` (mV and mA), `power` (uW), `battery` (uW, or uV and uA).
    """
    found = _rapl() or _rails() or _power() or _battery()
    readable = [one for one in found if read(one["path"]) is not None]
    if readable or not found:
        return readable, None
    return [], f"{found[0]['path']} is there and may not be read by this user"


def _rapl() -> list[dict[str, str]]:
    """Packages and their memory; `psys` and cores would count the same energy twice."""
    found = []
    for path in below("/sys/class/powercap/intel-rapl:*/energy_uj"):
        name = read(path.replace("energy_uj", "name")) or ""
        if name.startswith("package") or name == "dram":
            found.append({"kind": "rapl", "name": name, "path": path})
    return found


def _rails() -> list[dict[str, str]]:
    """INA3221 of a Jetson: the whole board's input where it has one, else every rail."""
    found = []
    for path in below("/sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*/in[0-9]*_input"):
        current = re.sub(r"in(\d+)_input$", r"curr\1_input", path)
        if read(current) is not None:
            name = read(path.replace("_input", "_label")) or path.rpartition("/")[2]
            found.append({"kind": "rail", "name": name, "path": path, "current": current})
    whole = [rail for rail in found if rail["name"] in ("VDD_IN", "POM_5V_IN")]
    return whole or found


def _power() -> list[dict[str, str]]:
    found = []
    for path in below("/sys/class/hwmon/hwmon*/power[0-9]*_input"):
        name = read(path.rpartition("/")[0] + "/name") or ""
        if name.startswith(("ina", "power_meter")):
            found.append({"kind": "power", "name": name, "path": path})
    return found


def _battery() -> list[dict[str, str]]:
    """The gauge of a device that runs on its battery now: coarse, and of the whole board."""
    found = []
    for folder in below("/sys/class/power_supply/*"):
        if read(folder + "/type") != "Battery" or read(folder + "/status") != "Discharging":
            continue
        name = "battery " + folder.rpartition("/")[2]
        if read(folder + "/power_now") is not None:
            found.append({"kind": "battery", "name": name, "path": folder + "/power_now"})
        elif read(folder + "/voltage_now") is not None:
            sensor = {"kind": "battery", "name": name, "path": folder + "/current_now"}
            found.append({**sensor, "voltage": folder + "/voltage_now"})
    return found
