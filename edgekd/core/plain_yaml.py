"""Reads YAML that anyone may have written: plain data of bounded size, whatever its aliases expand to."""

from __future__ import annotations

from typing import Any

import yaml

MAX_NODES = 100_000
"""A file of a kilobyte can expand to gigabytes through aliases of aliases."""

_ERRORS = (ValueError, KeyError, AttributeError, TypeError, OverflowError, RecursionError)
"""What PyYAML's constructors let through for scalars such as `2020-99-99` or `!!bool x`."""


def parse(text: str) -> tuple[yaml.Node | None, Any]:
    """The node tree (None when empty) and the plain data of one YAML document.

    Raises `ValueError` for what is not valid YAML, refers to itself or expands to more than `MAX_NODES`.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None and _count(node, {}) > MAX_NODES:
            raise ValueError(f"its aliases expand to more than {MAX_NODES} values")
        return node, yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    except _ERRORS as error:
        reason = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise ValueError(reason) from error


def _count(node: yaml.Node, known: dict[int, int | None]) -> int:
    """How many nodes the tree has with every alias written out."""
    if id(node) in known:
        count = known[id(node)]
        if count is None:
            raise ValueError(f"the value in line {node.start_mark.line + 1} contains itself")
        return count
    known[id(node)] = None
    inner = node.value if isinstance(node, yaml.CollectionNode) else ()
    parts = [part for item in inner for part in (item if isinstance(item, tuple) else (item,))]
    total = known[id(node)] = 1 + sum(_count(part, known) for part in parts)
    return total
