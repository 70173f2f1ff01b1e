"""Scenes of two to four real digits on a canvas, each known by its boxes and by a caption: data to ask things of."""

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from genzoo.data.captions import caption_bytes, caption_of
from genzoo.data.digits import digits
from genzoo.data.splits import Images, Splits

SIDE = 32  # pixels of the canvas
SIZES = (10, 14)  # smallest and largest side of a digit's box in pixels
GAP = 2  # empty pixels between two boxes, so that the ink of two digits never touches
BLOCK = 50_000  # arrangements that are tried at a time
COUNTS = (2, 4)  # fewest and most digits of a scene
EMPTY = (-1.0, 0.0, 0.0, 0.0, 0.0)  # a slot of the layout that holds no box


class Scenes(NamedTuple):
    """x: uint8 (n, 1, 32, 32); layout: float32 (n, 4, 5), (class id, x0, y0, x1, y1) with corners in [0, 1], x to the
    right and y down, unused slots EMPTY; captions: n strings that name the digits in the order of the slots."""

    x: Tensor
    layout: Tensor
    captions: list[str]


def scenes(
    ask: str = "layout", train: int = 20_000, val: int = 1_000, test: int = 5_000, scene_seed: int = 0
) -> Splits:
    """Splits of scenes (1, 32, 32), made in a few seconds; no digit is in two of them, since each takes the digits of
    the same split of `genzoo.data.digits`.

    ask: what y is, "layout" (n, 4, 5) float32 or "caption" (n, 100) uint8, UTF-8 padded with zeros. The images are the
    same for both. scene_seed: which scenes are drawn, the same in runs of every seed. Raises ValueError for another
    ask, and for a seed that is no whole number of at least 0.
    """
    if ask not in ASKS:
        raise ValueError(f"No y {ask!r} of scenes: data.ask is one of {', '.join(ASKS)}.")
    if not isinstance(scene_seed, int) or scene_seed < 0:
        raise ValueError(f"data.scene_seed={scene_seed}: give a whole number of at least 0.")
    drawn = [
        draw(part, n, np.random.default_rng((scene_seed, i)))
        for i, (part, n) in enumerate(zip(digits()[:3], (train, val, test), strict=True))
    ]
    return Splits(*[Images(part.x, ASKS[ask](part)) for part in drawn])


ASKS = {"layout": lambda part: part.layout, "caption": lambda part: caption_bytes(part.captions)}


def draw(source: Images, n: int, random: np.random.Generator) -> Scenes:
    """n scenes of the digits in `source`, uint8 (N, 1, 8, 8) with classes; drawn uniformly are the number of digits,
    which they are, and of all ways to place them those that keep GAP. Pillow's bicubic fills a box, 0 what is left."""
    counts = random.integers(COUNTS[0], COUNTS[1] + 1, n)
    index = random.integers(len(source.x), size=(n, COUNTS[1]))
    boxes = np.zeros((n, COUNTS[1], 4), int)
    for k in range(COUNTS[0], COUNTS[1] + 1):
        boxes[counts == k, :k] = placed((counts == k).sum(), k, random)
    used = np.arange(COUNTS[1]) < counts[:, None]  # (n, 4)
    classes = source.y.numpy()[index]
    layout = np.where(used[..., None], np.concatenate([classes[..., None], boxes / SIDE], 2), EMPTY)
    rows = zip(classes.tolist(), boxes.tolist(), counts, strict=True)
    captions = [caption_of(labels[:k], places[:k], random) for labels, places, k in rows]
    x = painted(source.x[:, 0].numpy(), index, boxes, used)
    return Scenes(torch.from_numpy(x), torch.from_numpy(layout).float(), captions)


def placed(n: int, k: int, random: np.random.Generator) -> np.ndarray:
    """n times k boxes (n, k, 4) = x0, y0, x1, y1 in pixels that keep apart, by rejection of all k at once."""
    found = [np.empty((0, k, 4), int)]
    while sum(map(len, found)) < n:
        boxes = anywhere(BLOCK, random)[:, None]  # (m, 1, 4)
        for _ in range(k - 1):  # most fail at the second box, and need no third
            more = anywhere(len(boxes), random)[:, None]
            clear = apart(boxes, more).all(1)
            boxes = np.concatenate([boxes[clear], more[clear]], 1)
        found.append(boxes)
    return np.concatenate(found)[:n]


def anywhere(n: int, random: np.random.Generator) -> np.ndarray:
    """Boxes (n, 4) of any size at any place on the canvas, in pixels."""
    # of ten million for 20,000 scenes: small types and `apart` without a reduction halve the time
    size = random.integers(SIZES[0], SIZES[1] + 1, (n, 1), dtype=np.int16)
    start = (random.random((n, 2), dtype=np.float32) * (SIDE - size + 1)).astype(np.int16)
    return np.concatenate([start, start + size], 1)


def apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whether boxes (..., 4) and (..., 4) have GAP empty columns or rows between them."""
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = np.moveaxis(a, -1, 0), np.moveaxis(b, -1, 0)
    return (ax1 + GAP <= bx0) | (bx1 + GAP <= ax0) | (ay1 + GAP <= by0) | (by1 + GAP <= ay0)


def painted(source: np.ndarray, index: np.ndarray, boxes: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Canvases uint8 (n, 1, 32, 32) with digit index[i, k] of source (N, 8, 8) in box k of image i where it is used."""
    x = np.zeros((len(boxes), 1, SIDE, SIDE), np.uint8)
    for size in range(SIZES[0], SIZES[1] + 1):
        image, slot = np.nonzero(used & (boxes[..., 2] - boxes[..., 0] == size))
        x0, y0 = boxes[image, slot, :2].T[..., None, None]  # (m, 1, 1) each
        across = np.arange(size)
        x[image[:, None, None], 0, y0 + across[:, None], x0 + across] = enlarged(source, size)[index[image, slot]]
    return x


def enlarged(source: np.ndarray, size: int) -> np.ndarray:
    """uint8 (N, h, w) to (N, size, size)."""
    return np.stack([Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC) for image in source])
