"""Classes go by their names: where a model's own stand among the data's."""

from __future__ import annotations

from collections.abc import Sequence

from edgekd.core.errors import UsageError


def places(own: Sequence[str], classes: Sequence[str], *, whose: str = "the model's") -> tuple[int, ...]:
    """The position of each of `own` in `classes`.

    `whose` begins the message. Raises `UsageError` for a class that is not among them.
    """
    position = {name: number for number, name in enumerate(classes)}
    unknown = [name for name in own if name not in position]
    if unknown:
        raise UsageError(
            f"{whose} class `{unknown[0]}` is not among the {len(position)} of the data",
            choices=classes,
            fix="name the classes alike in both",
        )
    return tuple(position[name] for name in own)
