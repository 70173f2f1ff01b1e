"""What a conditional model is asked for, in tests or in a user's words, and the share of its answers that is right."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from genzoo.data.captions import caption_bytes, caption_strings, claims_of
from genzoo.data.scenes import EMPTY
from genzoo.data.splits import Images
from genzoo.generator import Generator, TakesClasses, from_uint8, to_uint8
from genzoo.metrics.asked import boxes_right, captions_satisfied, class_right, share
from genzoo.metrics.classifier import classifier
from genzoo.metrics.draw import draw_together, per_image
from genzoo.metrics.evaluate import chosen
from genzoo.metrics.features import HasClasses, extract
from genzoo.metrics.inputs import quantised
from genzoo.metrics.memory import halving
from genzoo.metrics.reconstruction import psnr
from genzoo.metrics.scores import Scores
from genzoo.nets.conditions import Condition, Layout
from genzoo.nets.maps import Maps
from genzoo.nets.text import Bytes

Judge = Callable[[Tensor, Tensor], Tensor]  # uint8 (n, C, H, W), what was asked (n, ...) -> right (n,) or (n, k)

KNOWS = 0.5  # the share of real images that a judge has to call right, for else it knows other classes than these
BOX = "a box is [class,x0,y0,x1,y1] with corners in shares of the sides, as in [[7,0.1,0.1,0.4,0.5],[2,0.6,0.5,1,0.9]]"


def condition_of(model: Generator) -> Condition | None:
    """What a model's network is told beside the image; None for none, and for families that are told classes alone."""
    return getattr(model, "condition", None)


# --- By the test split, to be judged.


def answers(
    model: Generator, test: Images, extractor: nn.Module, n: int, batch_size: int = 256, seed: int = 0
) -> tuple[Scores, Scores]:
    """The shares of images that are what was asked, and the same of the real images that say so: what a perfect model
    would get; of a model that is told maps, what is `kept` of them.

    Asked is for what the data says of n test images, drawn by the seed: their classes, boxes or captions; image i
    follows from (seed, i). Both are {} for a model that takes no such thing, and where no judge knows these images.
    """
    if n > 1 and isinstance(condition_of(model), Maps):
        return kept(model, test, n, batch_size, seed), {}
    if test.y is None or n < 2 or not takes(model, test.y):
        return {}, {}
    real, y = (chosen(part, n, seed) for part in (quantised(test.x), test.y))
    judges = judges_of(y, extractor)
    ceiling = {name: share(judge(real, y)) for name, judge in judges.items()}
    ceiling = {name: score for name, score in ceiling.items() if score.value >= KNOWS}
    if not ceiling:
        return {}, {}
    images = draw_together(model.sample, n, batch_size, seed, y)
    return {name: share(judges[name](images, y)) for name in ceiling}, ceiling


@torch.no_grad()
def kept(model: Generator, test: Images, n: int, batch_size: int, seed: int) -> Scores:
    """How near samples of the maps of n test images come to these maps, over the pixels that are known; {} for maps
    that are not made of images."""
    condition = condition_of(model)
    if type(condition) is Maps:
        return {}
    real = chosen(quantised(test.x), n, seed)

    def made(start: int, size: int) -> Tensor:
        with per_image(seed, start, size):
            return condition.of(from_uint8(real[start : start + size].to(model.device)), None).cpu()

    def shown(start: int, size: int) -> Tensor:
        x, asked = (part[start : start + size].to(model.device) for part in (images, y))
        return condition.seen(from_uint8(x), asked).cpu()

    y = torch.cat(list(halving(made, n, batch_size, "making maps")))
    images = draw_together(model.sample, n, batch_size, seed, y)
    again = torch.cat(list(halving(shown, n, batch_size, "making maps")))
    some = y[:, -1].flatten(1).any(1)  # of which anything is known
    if some.sum() < 2:
        return {}
    return {"PSNR of the given": psnr(to_uint8(again[some, :-1]), to_uint8(y[some, :-1]), y[some, -1:].bool())}


def takes(model: Generator, y: Tensor) -> bool:
    """Whether a model can be asked for y (n, ...) as the data has it."""
    condition = condition_of(model)
    if condition is not None:
        return condition.nothing.shape == y.shape[1:]
    return isinstance(model, TakesClasses) and model.classes > 0 and y.dim() == 1


def judges_of(y: Tensor, extractor: nn.Module) -> dict[str, Judge]:
    """By printed name. Classes are judged by the protocol's features, digits in scenes by genzoo's classifier of them,
    which has seen none of the test split."""
    if y.dim() == 1:
        named = isinstance(extractor, HasClasses)
        return {"class right": partial(class_right, classify=partial(logits, extractor))} if named else {}
    digits = classifier("digits")
    if y.dim() == 3 and y.shape[2] == len(EMPTY):
        return {"boxes right": partial(boxes_right, classify=partial(logits, digits))}
    if y.dim() == 2 and y.dtype == torch.uint8 and readable(y):
        return {
            "captions right": partial(captions_right, net=digits),
            "digits right": partial(captions_right, net=digits, places=False),
        }
    return {}


def logits(net: HasClasses, images: Tensor) -> Tensor:
    """(m, K) on the host, of uint8 images (m, C, H, W)."""
    return net.classify(extract(images, net)).cpu()


def readable(y: Tensor) -> bool:
    """Whether captions y (n, length) keep to the grammar of `genzoo.data.captions`."""
    try:
        return all(map(claims_of, caption_strings(y)))
    except ValueError:
        return False


def captions_right(images: Tensor, y: Tensor, net: HasClasses, places: bool = True) -> Tensor:
    """`captions_satisfied` by images of captions y (n, length); without `places` only the digits count."""
    claims = [claims_of(caption) for caption in caption_strings(y)]
    claims = claims if places else [said._replace(order=()) for said in claims]
    return captions_satisfied(images, claims, partial(logits, net))


# --- In a user's words.


def conditions_of(model: Generator, y: Any, key: str = "y") -> Tensor | None:
    """What a user asks for as raw conditions (m, ...), one or several; None, which leaves it to the model, stays None.

    y: a class id, a caption, or a list of boxes, whichever the model takes; or a list of these. key: the setting's
    name. Raises ValueError for what this model does not take.
    """
    if y is None:
        return None
    condition = condition_of(model)
    if isinstance(condition, Bytes):
        rows = of_captions(y, condition, key)
    elif isinstance(condition, Layout):
        rows = of_boxes(y, condition, key)
    else:
        rows = of_classes(model, y, key)
    if condition is not None:
        condition.check(rows, len(rows))
    return rows


def of_captions(y: Any, condition: Bytes, key: str) -> Tensor:
    """(m, length) uint8. Raises ValueError for what is no text or does not fit."""
    captions = y if isinstance(y, list) else [y]
    if not captions or not all(isinstance(caption, str) for caption in captions):
        raise ValueError(f"{key}={y}: this model takes captions, as in {key}='a seven left of a two'")
    return caption_bytes(captions, len(condition.nothing))


def of_boxes(y: Any, condition: Layout, key: str) -> Tensor:
    """(m, slots, 5) float32. Raises ValueError for what is no box, and for too many."""
    several = isinstance(y, list) and y and all(isinstance(boxes, list) and is_list_of_lists(boxes) for boxes in y)
    layouts, slots = y if several else [y], len(condition.nothing)
    for boxes in layouts:
        if not isinstance(boxes, list) or not boxes or not all(map(is_box, boxes)):
            raise ValueError(f"{key}={y}: this model takes boxes; {BOX}")
        if len(boxes) > slots:
            raise ValueError(f"{key} has {len(boxes)} boxes for one image: this model takes {slots} at most")
    filled = [[*boxes, *[EMPTY] * (slots - len(boxes))] for boxes in layouts]
    return torch.tensor(filled, dtype=torch.float32)


def is_list_of_lists(y: list[Any]) -> bool:
    return bool(y) and all(isinstance(each, list) for each in y)


def is_box(box: Any) -> bool:
    """Whether this is [class, x0, y0, x1, y1] with x0 < x1 and y0 < y1."""
    if not isinstance(box, list) or len(box) != len(EMPTY) or not all(isinstance(each, int | float) for each in box):
        return False
    label, x0, y0, x1, y1 = box
    return label >= 0 and x0 < x1 and y0 < y1


def of_classes(model: Generator, y: Any, key: str) -> Tensor:
    """(m,) int64. Raises ValueError for a model that takes none, and for classes that it does not know."""
    asked = y if isinstance(y, list) else [y]
    classes = model.classes if isinstance(model, TakesClasses) else 0
    if not classes and condition_of(model) is not None:
        told = type(condition_of(model)).__name__
        raise ValueError(f"{key}={y}: this model is told images ({told}): leave out {key}; genzoo.edit gives it one")
    for each in asked:
        if not classes:
            raise ValueError(f"{key}={each}: this model was trained without classes: leave out {key}")
        if not isinstance(each, int) or isinstance(each, bool) or not 0 <= each < classes:
            known = f"the classes 0 to {classes - 1}, so give one of these"
            raise ValueError(f"{key}={each}: this model knows {known}")
    if not asked:
        raise ValueError(f"{key}=[] names no class: leave out {key}, or give one or more")
    return torch.tensor(asked)


def in_turn(y: Tensor | None, n: int) -> Tensor | None:
    """n rows, of those of y (m, ...) one after the other and again."""
    return None if y is None else y[torch.arange(n) % len(y)]
