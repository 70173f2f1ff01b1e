"""What a generator is told beside images in training, and what it draws when nobody asks: the conditions of its net,
or classes as a vector."""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from genzoo.generator import Batch, refuse_conditions
from genzoo.nets.conditions import Classes, Condition


class Told:
    """A generator whose `net` has a `condition`, or None.

    The generator sets `dropout`, the share of the conditions that are replaced by the null so that the net is trained
    without them too, and calls `register_asks` once it has its net.
    """

    raw = False  # whether y comes as the net is told it, as from genzoo.models.latent, which has the images

    def register_asks(self) -> None:
        """Make room, as buffer `asks`, for conditions as the training data has them."""
        self.register_buffer("asks", examples(self.condition))

    @property
    def condition(self) -> Condition | None:
        """What the net is told beside the image."""
        return getattr(self.net, "condition", None)

    @property
    def classes(self) -> int:
        """Number of classes that `sample` takes, 0 where y says something else, or nothing."""
        return self.condition.classes if isinstance(self.condition, Classes) else 0

    def told(self, x: Tensor, y: Tensor | None) -> Tensor | None:
        """The conditions of training images, a share `dropout` of them replaced by the null."""
        if self.condition is None:
            return None
        return dropped(self.condition, y if self.raw else self.condition.of(x, y), self.dropout)

    def on_fit_start(self) -> None:
        """Raises ValueError for data without these conditions, or with another number of classes."""
        super().on_fit_start()
        data = self.trainer.datamodule
        if self.condition is not None and data is not None:
            batches = (data.on_after_batch_transfer(batch, 0) for batch in data.epoch())
            self.asks.copy_(remembered(self.condition, batches, len(self.asks), few=True))  # for samples while training

    def after_fit(self, batches: Iterable[Batch]) -> None:
        """Remember conditions: `sample` without y draws from them."""
        if self.condition is not None:
            self.asks.copy_(remembered(self.condition, batches, len(self.asks)))

    def chosen(self, n: int, y: Tensor | None) -> Tensor | None:
        """The conditions to draw n images of. Raises ValueError for those that the model does not know."""
        if self.condition is None:
            return refuse_conditions(self, y)
        if y is None:
            return self.asks[torch.randint(len(self.asks), (n,), device=self.device)]
        self.condition.check(y, n)
        return y.to(self.device)


def dropped(condition: Condition, y: Tensor, share: float) -> Tensor:
    """y with a share of its rows replaced by the null."""
    drop = torch.rand(len(y), device=y.device) < share
    return torch.where(drop.view(-1, *[1] * (y.dim() - 1)), condition.null(len(y)), y)


def examples(condition: Condition | None) -> Tensor | None:
    """Room for raw conditions of training images, nulls at first: 1,000 of them, fewer of large maps."""
    return None if condition is None else condition.null(max(64, min(1000, 2**22 // condition.nothing.numel()))).clone()


def remembered(condition: Condition, batches: Iterable[Batch], n: int, few: bool = False) -> Tensor:
    """n raw conditions of the training images in batches (x, y): of all, each class with its share; where they are
    maps, or `few` is said, of the first n or somewhat more."""
    found: list[Tensor] = []
    for x, y in batches:
        found.append(condition.of(x, y))
        if (few or condition.maps) and sum(map(len, found)) >= n:
            break
    return spread(torch.cat(found), n)


def spread(y: Tensor, n: int) -> Tensor:
    """n rows of y at equal distances in the order of their first elements: of each class its share, to 1 / n."""
    order = y.flatten(1)[:, 0].argsort(stable=True) if y.dim() > 1 else y.argsort(stable=True)
    places = ((torch.arange(n, device=y.device) + 0.5) * (len(y) / n)).long()
    return y[order[places]]


class Classed:
    """A generator that is told the class of each image as a vector, once it has called `of_classes`."""

    def of_classes(self, classes: int, dropout: float = 0.0) -> None:
        """classes: of the data, 0 to ignore them. dropout: share of the training images that come without."""
        self.classes, self.dropout = classes, dropout
        self.register_buffer("shares", torch.full((classes,), 1 / max(classes, 1)))  # of the classes, in training

    def class_vector(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """(n, classes) on the device of x (n, ...): 1 for the class of each row, all 0 for no class.

        Raises ValueError for a y that is not (n,) class ids.
        """
        if y is None or not self.classes:
            return torch.zeros(len(x), self.classes, device=x.device, dtype=x.dtype)
        if y.shape != (len(x),) or y.is_floating_point():
            raise ValueError(f"y of shape {tuple(y.shape)} holds no class ids: set condition=none or data with classes")
        return F.one_hot(y.long(), self.classes).to(x)

    def told(self, x: Tensor, y: Tensor | None) -> Tensor:
        """`class_vector` of a batch to learn from, a share `dropout` of its rows without a class.

        Raises ValueError where the model wants classes and there are none.
        """
        if self.classes and y is None:
            raise ValueError(f"condition.classes={self.classes}, but the data has no classes: set condition=none")
        kept = torch.rand(len(x), 1, device=x.device) >= self.dropout if self.classes else 1.0
        return self.class_vector(x, y) * kept

    def chosen(self, n: int, y: Tensor | None) -> Tensor | None:
        """The classes to draw n images of: y, or as often as the training data has them; None of a model without.

        Raises ValueError for a class that the model does not know.
        """
        if not self.classes:
            return refuse_conditions(self, y)
        if y is None:
            return torch.bucketize(torch.rand(n, device=self.device), self.shares.cumsum(0)[:-1])
        if y.shape != (n,) or (y < 0).any() or (y >= self.classes).any():
            raise ValueError(f"y={y.tolist()}: give {n} of the classes 0 to {self.classes - 1}")
        return y.to(self.device)

    def marginal(self, log_prob: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """log p(x) (n,) of the mixture over the classes that `sample` draws from; log_prob: class vectors (n, classes)
        -> log p(x | y) (n,)."""
        if not self.classes:
            return log_prob(self.class_vector(x))
        rows = torch.eye(self.classes, device=x.device, dtype=x.dtype)
        given = torch.stack([log_prob(row.expand(len(x), -1)) for row in rows])  # (classes, n)
        return torch.logsumexp(given + self.shares.log()[:, None], dim=0)

    def after_fit(self, batches: Iterable[Batch]) -> None:
        """How often each class occurs: `sample` without y draws classes as the data does."""
        if self.classes:
            counts = sum(torch.bincount(y, minlength=self.classes) for _, y in batches)
            self.shares.copy_(counts / counts.sum())
