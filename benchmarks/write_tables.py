"""Writes what was measured into docs/does-it-teach.md, between its marks; `make docs` does it too.

python benchmarks/write_tables.py
"""

from __future__ import annotations

import re
from pathlib import Path

import methods_on_cifar
import recorded_parity
from evidence import rows

PAGE = Path(__file__).parents[1] / "docs" / "does-it-teach.md"


def main() -> None:
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def filled(page: str) -> str:
    """The page with each `<!-- name -->` ... `<!-- /name -->` holding its table."""
    trainings, parity = rows(methods_on_cifar.NAME), rows(recorded_parity.NAME)
    tables = {
        "methods": methods_on_cifar.table(trainings),
        "looks": methods_on_cifar.looks(trainings),
        "parity": recorded_parity.table(parity),
    }
    for name, table in tables.items():
        region = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        page, count = region.subn(lambda found, table=table: f"{found[1]}{table}\n{found[2]}", page)
        if count != 1:
            raise ValueError(f"{PAGE}: needs `<!-- {name} -->` and `<!-- /{name} -->` once")
    return page


if __name__ == "__main__":
    main()
