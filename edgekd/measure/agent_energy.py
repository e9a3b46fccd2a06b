"""Energy of idling and of running each graph, as the device's own sensor tells it. Python 3.8 and newer."""

from __future__ import annotations

import gc
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from .agent import RequestError, Timed
    from .agent_facts import read_int, state
    from .agent_sensors import energy_sensors
else:
    from agent import RequestError, Timed
    from agent_facts import read_int, state
    from agent_sensors import energy_sensors


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Idle for `seconds`, every graph for `seconds`, idle again; all graphs are loaded the whole time.

    With `external` true no sensor is read: a meter outside is, later, between the epochs given here.
    """
    sensors = [] if request.get("external") else energy_sensors()[0]
    if not sensors and not request.get("external"):
        raise RequestError("no energy sensor can be read")
    graphs = [Timed(request, artifact) for artifact in request["artifacts"]]
    for graph in graphs:
        graph.warm(request["warm_up"])
    idle = [_window(sensors, request, None)]
    found = {graph.name: _window(sensors, request, graph) for graph in graphs}
    idle.append(_window(sensors, request, None))
    return {"sensors": sensors, "idle": idle, "graphs": found, "ended": time.time()}


def _window(sensors: list[dict[str, str]], request: dict[str, Any], graph: Timed | None) -> dict[str, Any]:
    """One stretch of at least `seconds`: its epochs, runs, joules and how often the sensor was read."""
    gc.collect()
    gc.disable()
    before, runs = state(), 0
    meter = Meter(sensors, request["period_s"])
    started, began = time.time(), time.perf_counter()
    while time.perf_counter() - began < request["seconds"]:
        if graph is None:
            time.sleep(min(0.05, request["seconds"]))
        else:
            graph.once()
            runs += 1
    span_s, joules, samples = meter.stop()
    gc.enable()
    return {
        "started": started,
        "ended": started + span_s,
        "span_s": span_s,
        "runs": runs,
        "joules": joules,
        "samples": samples,
        "state": {"before": before, "after": state()},
    }


class Meter:
    """Reads the sensors in a thread, which mostly sleeps, from now until `stop`."""

    def __init__(self, sensors: list[dict[str, str]], period_s: float) -> None:
        self._sensors, self._period_s = sensors, period_s
        self._over = threading.Event()
        self._times: list[float] = []
        self._values: list[list[float]] = []
        self._read()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> tuple[float, float | None, int]:
        """Seconds from the first reading to the last, joules in between (None without sensors), readings."""
        self._over.set()
        self._thread.join()
        self._read()
        times = self._times
        columns = [[row[at] for row in self._values] for at in range(len(self._sensors))]
        joules = [self._joules(one, column) for one, column in zip(self._sensors, columns)]
        return times[-1] - times[0], sum(joules) if joules else None, len(times) if joules else 0

    def _run(self) -> None:
        while self._sensors and not self._over.wait(self._period_s):
            self._read()

    def _read(self) -> None:
        self._times.append(time.perf_counter())
        self._values.append([reading(sensor) for sensor in self._sensors])

    def _joules(self, sensor: dict[str, str], values: list[float]) -> float:
        if sensor["kind"] != "rapl":
            return integrated(self._times, values)
        most = read_int(sensor["path"].replace("energy_uj", "max_energy_range_uj"))
        return counted(values, most) / 1e6


def reading(sensor: dict[str, str]) -> float:
    """What the sensor says now: microjoules of a counter, else watts."""
    value = _number(sensor["path"])
    if sensor["kind"] == "rapl":
        return value
    if sensor["kind"] == "rail":  # mV and mA
        return value * _number(sensor["current"]) / 1e6
    if "voltage" in sensor:  # a battery's uA and uV; some drivers count what flows out as negative
        return abs(value) * _number(sensor["voltage"]) / 1e12
    return abs(value) / 1e6


def _number(path: str) -> float:
    value = read_int(path)
    if value is None:
        raise RequestError(f"the sensor {path} can no longer be read")
    return float(value)


def counted(values: list[float], most: int | None) -> float:
    """What a counter that starts again at 0 after `most` went up by."""
    total = 0.0
    for before, after in zip(values, values[1:]):
        if after < before and most is None:
            raise RequestError("the energy counter fell, and the kernel does not say where it starts again")
        total += after - before if after >= before else after - before + (most or 0)
    return total


def integrated(times: list[float], watts: list[float]) -> float:
    """Joules under readings of a power, by the trapezoidal rule."""
    pairs = zip(zip(times, watts), zip(times[1:], watts[1:]))
    return sum((end - start) * (low + high) / 2 for (start, low), (end, high) in pairs)
