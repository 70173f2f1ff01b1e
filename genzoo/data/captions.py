"""Captions that can be checked: which digits a scene holds and how they lie, as text, as claims, as bytes.

    caption  = digit relation digit {", " digit place}
    digit    = ("a" | "an") " " name                  name: zero ... nine
    relation = "left of" | "right of" | "above" | "below"
    place    = relation " the " [ordinal " "] name    of one digit that was named before
             | "to the left" | "to the right" | "above" | "below"    of every digit that was named before

The digits of a scene are those named, no more. The ordinal (first, second, third) stands where the name was given to
several digits before and counts them in the order of naming, so "the" digit is always one. A is left of B when the box
of A ends before the box of B begins, above B likewise with y down: both can be true, and neither of touching columns.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

LENGTH = 100  # bytes; the longest caption of four digits has 98
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ORDINALS = ("first", "second", "third")
AXES = {"left of": (0, 1), "right of": (0, -1), "above": (1, 1), "below": (1, -1)}  # axis; 1 if the subject is first
ALL = {"left of": "to the left", "right of": "to the right", "above": "above", "below": "below"}  # of all before
FIRST = re.compile(rf"an? (\w+) ({'|'.join(AXES)}) an? (\w+)")
FURTHER = re.compile(
    rf"an? (\w+) (?:({'|'.join(AXES)}) the (?:({'|'.join(ORDINALS)}) )?(\w+)|({'|'.join(ALL.values())}))"
)
Box = Sequence[float]  # x0, y0, x1, y1


class Claims(NamedTuple):
    """What a caption says. classes: class ids in the order of naming.

    order: triples (i, axis, j): the i-th digit named ends before the j-th begins, along x (axis 0) or y (1).
    """

    classes: tuple[int, ...]
    order: tuple[tuple[int, int, int], ...]


def caption_of(classes: Sequence[int], boxes: Sequence[Box], random: np.random.Generator) -> str:
    """A true caption of two to four digits, which are named in the order given; boxes do not overlap.

    The relation to one digit is that along which the centres lie further apart. A further digit is placed beside one
    drawn from those before, or half the time, if it lies on one side of all of them, there.
    """
    said = [f"{_a(classes[0])} {relation(boxes[0], boxes[1])} {_a(classes[1])}"]
    for i in range(2, len(classes)):
        sides = [name for name in AXES if all(holds(boxes[i], name, box) for box in boxes[:i])]
        if sides and random.random() < 0.5:
            place = ALL[sides[random.integers(len(sides))]]
        else:
            j = int(random.integers(i))
            place = f"{relation(boxes[i], boxes[j])} {_the(j, classes[:i])}"
        said.append(f"{_a(classes[i])} {place}")
    return ", ".join(said)


def relation(box: Box, other: Box) -> str:
    """How a box lies to another, which it does not overlap, along the axis where their centres are further apart."""
    dx, dy = (box[axis] + box[axis + 2] - other[axis] - other[axis + 2] for axis in (0, 1))
    if abs(dx) > abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


def holds(box: Box, name: str, other: Box) -> bool:
    """Whether "`box` `name` `other`" is true."""
    axis, sign = AXES[name]
    first, last = (box, other)[::sign]
    return first[axis + 2] <= last[axis]


def _a(label: int) -> str:
    return f"{'an' if label == 8 else 'a'} {NAMES[label]}"


def _the(j: int, classes: Sequence[int]) -> str:
    """The j-th of the digits named so far."""
    same = [i for i, label in enumerate(classes) if label == classes[j]]
    return f"the {ORDINALS[same.index(j)] + ' ' if len(same) > 1 else ''}{NAMES[classes[j]]}"


@lru_cache(100_000)
def claims_of(caption: str) -> Claims:
    """What a caption claims; raises ValueError for one that this file's grammar does not make."""
    start, *further = caption.split(", ")
    match = FIRST.fullmatch(start)
    if not match:
        raise ValueError(f"{start!r} does not place two digits: write 'a seven left of a two'.")
    name, where, other = match.groups()
    classes, order = [_class(name), _class(other)], [_ordered(0, where, 1)]
    for i, part in enumerate(further, start=2):
        match = FURTHER.fullmatch(part)
        if not match:
            raise ValueError(f"{part!r} does not place a digit: write 'a four below the two' or 'a four below'.")
        name, where, ordinal, other, side = match.groups()
        if side:
            order += [_ordered(i, next(key for key in ALL if ALL[key] == side), j) for j in range(i)]
        else:
            order.append(_ordered(i, where, _named(ordinal, other, classes)))
        classes.append(_class(name))
    return Claims(tuple(classes), tuple(order))


def _ordered(i: int, name: str, j: int) -> tuple[int, int, int]:
    axis, sign = AXES[name]
    first, last = (i, j)[::sign]
    return first, axis, last


def _class(name: str) -> int:
    if name not in NAMES:
        raise ValueError(f"{name!r} is no digit: write one of {', '.join(NAMES)}.")
    return NAMES.index(name)


def _named(ordinal: str | None, name: str, classes: Sequence[int]) -> int:
    """Which digit named so far "the [ordinal] name" is."""
    same = [i for i, label in enumerate(classes) if label == _class(name)]
    place = ORDINALS.index(ordinal) if ordinal else 0
    if place >= len(same) or (len(same) > 1) != bool(ordinal):
        said = " ".join(filter(None, ["the", ordinal, name]))
        raise ValueError(f"{said!r} is not one digit: {len(same)} of that name were named before it.")
    return same[place]


def caption_bytes(captions: Sequence[str], length: int = LENGTH) -> Tensor:
    """UTF-8 bytes (n, length) uint8, padded with zeros; raises ValueError for a caption that does not fit."""
    coded = [caption.encode() for caption in captions]
    for caption, code in zip(captions, coded, strict=True):
        if len(code) > length or b"\0" in code:
            raise ValueError(f"The caption {caption!r} has {len(code)} bytes: {length} fit, and none may be zero.")
    padded = b"".join(code.ljust(length, b"\0") for code in coded)
    return torch.from_numpy(np.frombuffer(padded, np.uint8).reshape(-1, length).copy())


def caption_strings(y: Tensor) -> list[str]:
    """The captions in y (n, length) uint8; inverts `caption_bytes`."""
    return [row.tobytes().rstrip(b"\0").decode() for row in y.cpu().contiguous().numpy()]
