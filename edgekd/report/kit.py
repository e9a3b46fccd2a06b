"""Results of TensorRT's kit, which ran on devices out of reach: shown, and judged by nothing."""

from __future__ import annotations

from collections.abc import Iterator

from edgekd.backends.tensorrt.kit_record import KitRecord, read_records
from edgekd.report.facts import KitFact
from edgekd.report.formatting import counted, milliseconds, percent, size
from edgekd.report.reading import Source

KIT_LEAD = (
    "A folder was run on a device out of reach of edgekd, and its result came back. It stands beside the "
    "verdict: the gate judges none of it."
)
NOT_EXECUTED = (
    "accuracy over the evaluation set, latency from host to host, memory, load time, energy: the kit "
    "measures none of them"
)
_SHOWN = 5
_WORDS = {"?": "not told"}


def kits_of(source: Source) -> tuple[KitFact, ...]:
    """One for each device and artifact."""
    rows = source.record.rows
    # A kit that was written before anything was measured is named by its artifact's step.
    titles = {row.graph_step: row.title for row in rows} | {row.name: row.title for row in rows}
    records, _ = read_records(source.folder)
    return tuple(_fact(one, titles.get(one.artifact, one.artifact)) for one in records)


def kit_problems(source: Source) -> Iterator[str]:
    """Files among the results that cannot be read."""
    yield from read_records(source.folder)[1]


def kit_lines(record: KitRecord) -> list[str]:
    """As `edgekd kit read` tells it."""
    return fact_lines(_fact(record, record.artifact))


def fact_lines(kit: KitFact) -> list[str]:
    head = f"{kit.title} [{kit.precision}] by TensorRT's kit, beside the verdict"
    width = max(len(name) for name, _ in kit.entries)
    return [head, *(f"  {name:<{width}}  {text}" for name, text in kit.entries)]


def _fact(record: KitRecord, title: str) -> KitFact:
    times = record.compute_ms
    return KitFact(
        title=title,
        precision=record.precision,
        device=record.device,
        tensorrt=record.tensorrt,
        read_at=record.read_at,
        agrees=record.numerics.agrees,
        num_images=record.numerics.images,
        same_top1=record.numerics.same_top1,
        max_abs_difference=record.numerics.max_abs_difference,
        largest_logit=record.numerics.largest_logit,
        compute_p10_ms=times.p10,
        compute_p50_ms=times.p50,
        compute_p90_ms=times.p90,
        unexpected=record.profile.unexpected,
        untold=record.profile.untold,
        entries=tuple(_entries(record)),
    )


def _entries(record: KitRecord) -> Iterator[tuple[str, str]]:
    yield "device", record.device
    yield "TensorRT", record.tensorrt
    if mode := record.machine.get("power_mode"):
        yield "power mode", " ".join(mode.split())
    yield "numerics", _numerics(record)
    yield "computing alone", _times(record)
    yield "engine", _engine(record)
    profile = record.profile
    if profile.unexpected:
        yield "unexpected", listed(profile.unexpected, "; ")
    if profile.untold:
        yield "not told", f"in what TensorRT computes {listed(profile.untold)}"
    yield "not executed", NOT_EXECUTED


def _numerics(record: KitRecord) -> str:
    found = record.numerics
    apart = (
        found.max_abs_difference / found.largest_logit if found.largest_logit else found.max_abs_difference
    )
    return (
        f"{'agrees' if found.agrees else 'DOES NOT AGREE'} with ONNX Runtime without optimizations: at most "
        f"{percent(apart)} of the largest logit apart (allowed {percent(found.tolerance)}); "
        f"{found.same_top1} of {counted(found.images, 'image')} answered the same"
    )


def _times(record: KitRecord) -> str:
    times = record.compute_ms
    p10, p50, p90 = map(milliseconds, (times.p10, times.p50, times.p90))
    runs = counted(times.runs, "run")
    return f"p50 {p50} (p10 {p10}, p90 {p90}) over {runs}, no copies, CUDA graph"


def _engine(record: KitRecord) -> str:
    weight = record.engine.get("size_bytes")
    counts = sorted(record.profile.precisions.items(), key=lambda item: (-item[1], item[0]))
    parts = [
        size(weight) if isinstance(weight, int) else "",
        "ran as " + ", ".join(f"{n} {_WORDS.get(name, name)}" for name, n in counts),
    ]
    return ", ".join(part for part in parts if part)


def listed(names: tuple[str, ...], separator: str = ", ") -> str:
    """The first few, and how many more."""
    more = len(names) - _SHOWN
    return separator.join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
