"""Writes what was measured into the pages of docs/ that show it; `make docs` does it too.

python benchmarks/write_tables.py
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import backend_matrix
import methods_on_cifar
import qdq_linter_against_parser
import recorded_parity
from evidence import rows

DOCS = Path(__file__).parents[1] / "docs"


def _teaching() -> Mapping[str, str]:
    trainings, parity = rows(methods_on_cifar.NAME), rows(recorded_parity.NAME)
    return {
        "methods": methods_on_cifar.table(trainings),
        "looks": methods_on_cifar.looks(trainings),
        "parity": recorded_parity.table(parity),
    }


def _backends() -> Mapping[str, str]:
    return {"matrix": backend_matrix.table(rows(backend_matrix.NAME))}


def _tensorrt() -> Mapping[str, str]:
    found = qdq_linter_against_parser.latest(rows(qdq_linter_against_parser.NAME))
    return {"linter": qdq_linter_against_parser.table(found)}


PAGES: Mapping[str, Callable[[], Mapping[str, str]]] = {
    "does-it-teach.md": _teaching,
    "backends.md": _backends,
    "backends/tensorrt.md": _tensorrt,
}
"""Page -> its tables by the name of their marks."""


def main() -> None:
    for name in PAGES:
        page = DOCS / name
        page.write_text(filled(name, page.read_text(encoding="utf-8")), encoding="utf-8")


def filled(name: str, page: str) -> str:
    """The page with each `<!-- mark -->` ... `<!-- /mark -->` holding its table."""
    for mark, table in PAGES[name]().items():
        region = re.compile(f"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.DOTALL)
        page, count = region.subn(lambda found, table=table: f"{found[1]}{table}\n{found[2]}", page)
        if count != 1:
            raise ValueError(f"{name}: needs `<!-- {mark} -->` and `<!-- /{mark} -->` once")
    return page


if __name__ == "__main__":
    main()
