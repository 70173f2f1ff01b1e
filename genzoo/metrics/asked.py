"""Was it what was asked for? Generated images against their class, their boxes, or their caption.

`classify` takes uint8 images (m, C, 8, 8), or of any size for classes, and gives logits (m, K). For digits it is
`net.classify(net(x))` of `genzoo.metrics.classifier.classifier("digits")`, which has seen no digit of the test split. A
layout is (n, k, 5): (class id, x0, y0, x1, y1) with corners in [0, 1], x to the right and y down, class id -1 where a
slot holds no box.
"""

from collections.abc import Callable, Sequence
from itertools import permutations

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from genzoo.metrics.intervals import share_interval
from genzoo.metrics.scores import Score

Classify = Callable[[Tensor], Tensor]
Claims = tuple[Sequence[int], Sequence[tuple[int, int, int]]]  # class ids; (i, axis, j) as in `captions_satisfied`

SIDE = 8  # pixels of a crop, as the digits are that the classifier was trained on
INK = 64  # the lowest level of a digit's pixels; its edges fade to 0
TALL = 8 / 32  # of the image's height, at least: anything lower is a speck, or a stroke that came off a digit
PART = 1024  # crops made at a time
WITHIN = np.stack([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))])  # eight neighbours in the same image


def class_right(images: Tensor, y: Tensor, classify: Classify) -> Tensor:
    """Whether the class of each uint8 image (n, C, H, W) is y (n,): bool (n,)."""
    return classify(images).argmax(1) == y


def boxes_right(images: Tensor, layout: Tensor, classify: Classify) -> Tensor:
    """1 where the crop of a box is of the class asked there, else 0, NaN in slots without a box: float64 (n, k).

    images: uint8 (n, C, H, W). Raises ValueError for others, or another number of layouts.
    """
    check(images, len(layout))
    right = torch.full(layout.shape[:2], torch.nan, dtype=torch.float64)
    image, slot = (layout[..., 0] >= 0).nonzero(as_tuple=True)  # (m,) each
    asked = layout[image, slot]  # (m, 5)
    found = class_ids(lambda part: images[image[part]], asked[:, 1:], classify)
    right[image, slot] = (found == asked[:, 0]).double()
    return right


def check(images: Tensor, asked: int) -> None:
    """Raises ValueError unless `images` are uint8 (n, C, H, W) and n = asked."""
    if images.dtype != torch.uint8 or images.dim() != 4:
        raise ValueError(
            f"Judged are uint8 images (n, C, H, W), not {images.dtype} {tuple(images.shape)}: use to_uint8."
        )
    if len(images) != asked:
        raise ValueError(f"{len(images)} images were made, but {asked} were asked for: give as many of both.")


def class_ids(seen: Callable[[slice], Tensor], boxes: Tensor, classify: Classify) -> Tensor:
    """int64 (m,): the class of the crop at each box (m, 4) of the uint8 images that `seen` gives for a slice."""
    parts = [slice(start, start + PART) for start in range(0, len(boxes), PART)]
    return torch.cat([torch.empty(0).long(), *(digit(crops(seen(part), boxes[part]), classify) for part in parts)])


def digit(crop: Tensor, classify: Classify) -> Tensor:
    """int64 (m,): the class of each uint8 crop (m, C, 8, 8), or -1 for one without ink, which would pass for a one."""
    return torch.where(crop.flatten(1).amax(1) >= INK, classify(crop).argmax(1), -1)


def crops(images: Tensor, boxes: Tensor) -> Tensor:
    """The box (m, 4) of each uint8 image (m, C, H, W), uint8 (m, C, 8, 8), level 0 outside of the image.

    Bilinear at 16 x 16 points, each 2 x 2 of them averaged.
    """
    x0, y0, x1, y1 = boxes.float().T
    zero = torch.zeros_like(x0)
    theta = torch.stack([x1 - x0, zero, x0 + x1 - 1, zero, y1 - y0, y0 + y1 - 1], 1).view(-1, 2, 3)
    grid = F.affine_grid(theta, [len(boxes), 1, 2 * SIDE, 2 * SIDE], align_corners=False)
    return F.avg_pool2d(F.grid_sample(images.float(), grid, align_corners=False), 2).round().byte()


def digits_found(images: Tensor, classify: Classify) -> Tensor:
    """The layout (n, k, 5) of the digits in uint8 images (n, 1, H, W), k being the most of one image.

    A digit is a connected component of pixels from INK on that is TALL or taller; its box is as tight as its ink. Its
    class is that of the square around it, all else blanked. Raises ValueError for images that are not uint8.
    """
    check(images, len(images))
    labels, index, own, boxes = components(images[:, 0])

    def seen(part: slice) -> Tensor:
        return images[index[part]] * (labels[index[part]] == own[part, None, None])[:, None]

    classes = class_ids(seen, squares(boxes), classify)
    slot = torch.arange(len(index)) - torch.searchsorted(index, index)  # the place among those of the same image
    layout = torch.zeros(len(images), int(slot.max()) + 1 if len(slot) else 0, 5)
    layout[..., 0] = -1
    layout[index, slot] = torch.cat([classes[:, None], boxes], 1).float()
    return layout


def components(levels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What stands out of levels (n, H, W): labels (n, H, W) of pixels, and of each component, in the images' order,
    its image (m,), its label (m,) and its box (m, 4) in [0, 1]."""
    height, width = levels.shape[1:]
    labels, _ = ndimage.label(levels.numpy() >= INK, WITHIN)
    found = [
        (image.start, label, x.start / width, y.start / height, x.stop / width, y.stop / height)
        for label, (image, y, x) in enumerate(ndimage.find_objects(labels), 1)
        if y.stop - y.start >= TALL * height
    ]
    rows = torch.tensor(sorted(found), dtype=torch.float64).view(-1, 6)
    return torch.from_numpy(labels), rows[:, 0].long(), rows[:, 1].long(), rows[:, 2:]


def squares(boxes: Tensor) -> Tensor:
    """The smallest squares (m, 4) around boxes (m, 4), with the same centres."""
    centre, side = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).amax(1, keepdim=True)
    return torch.cat([centre - side / 2, centre + side / 2], 1)


def captions_satisfied(images: Tensor, claims: Sequence[Claims], classify: Classify) -> Tensor:
    """Whether the digits found in each image are those claimed, no more and no fewer, and lie as claimed: bool (n,).

    images: uint8 (n, 1, H, W). claims: per image the class ids, and triples (i, axis, j) of which each says that the
    i-th ends before the j-th begins along x (axis 0) or y (1); `genzoo.data.captions.claims_of` reads them from a
    caption. Without triples only the digits are asked for. Raises ValueError as `boxes_right`.
    """
    check(images, len(claims))
    layout = digits_found(images, classify)
    right = [lies_as(row[row[:, 0] >= 0], *said) for row, said in zip(layout, claims, strict=True)]
    return torch.tensor(right, dtype=torch.bool)


def lies_as(found: Tensor, classes: Sequence[int], order: Sequence[tuple[int, int, int]]) -> bool:
    """Whether the boxes found (k, 5) can be named so that all that is claimed of them is true."""
    there, *corners = found.T.tolist()  # 5 lists of k
    if sorted(there) != sorted(classes):
        return False
    return any(
        all(there[box] == label for box, label in zip(named, classes, strict=True))
        and all(corners[axis + 2][named[i]] <= corners[axis][named[j]] for i, axis, j in order)
        for named in permutations(range(len(classes)))
    )


def share(right: Tensor) -> Score:
    """The share of what is right, its 95% interval by Wilson, details: n, how many were asked for.

    right: (n,) or (n, k) of 0, 1 and NaN (not asked); the rows are independent, what is within a row need not be, and
    widens the interval (Liang & Zeger 1986). Raises ValueError for fewer than two rows, or if nothing was asked for.
    """
    right = right.double().reshape(len(right), -1)
    asked = right.isfinite().sum(1)  # (n,)
    n, rows = int(asked.sum()), len(right)
    if rows < 2 or n == 0:
        raise ValueError(f"A share wants two images or more of which something was asked, got {rows} with {n} asked.")
    value = right.nansum().item() / n
    error = (right.nansum(1) - value * asked).square().sum().sqrt().item() / n
    return Score(value, share_interval(value, error, n, dof=rows - 1), {"asked": n})
