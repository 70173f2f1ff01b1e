"""The order of images and the flips follow from (seed, epoch, rank) alone, and ranks share nothing."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from genzoo.data.batches import (
    Batches,
    Epochs,
    batches_of_epoch,
    epoch_batches,
    epoch_flips,
    mirror,
    ordered_batches,
)
from genzoo.data.splits import Images


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 70), st.integers(0, 5), st.integers(1, 4))
def test_ranks_divide_an_epoch_without_overlap(n: int, batch_size: int, epoch: int, world: int) -> None:
    ranks = [epoch_batches(n, batch_size, seed=1, epoch=epoch, rank=r, world=world) for r in range(world)]
    sizes = [[len(batch) for batch in batches] for batches in ranks]
    assert all(row == sizes[0] for row in sizes)  # else a rank would wait for ever
    share = n // world
    assert sizes[0] == ([batch_size] * (share // batch_size) if share >= batch_size else [share] * (share > 0))
    seen = torch.cat([torch.arange(0), *(batch for batches in ranks for batch in batches)])
    assert len(seen.unique()) == len(seen) and (len(seen) == 0 or (seen.min() >= 0 and seen.max() < n))


@given(st.integers(1, 100), st.integers(1, 30), st.integers(1, 4))
def test_evaluation_sees_everything_once_and_in_order(n: int, batch_size: int, world: int) -> None:
    ranks = [torch.cat([torch.arange(0), *ordered_batches(n, batch_size, r, world)]) for r in range(world)]
    assert all(torch.equal(rank, rank.sort().values) for rank in ranks)
    assert torch.equal(torch.cat(ranks).sort().values, torch.arange(n))


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return torch.cat(epoch_batches(97, 8, seed, epoch)).tolist()

    first = order(0, 0)
    torch.manual_seed(5)
    np.random.seed(5)
    assert order(0, 0) == first
    assert len({tuple(order(*key)) for key in [(0, 0), (0, 1), (1, 0), (1, 1)]}) == 4


def test_every_image_is_equally_often_in_every_place() -> None:
    firsts = torch.stack([epoch_batches(8, 8, 0, epoch)[0] for epoch in range(4000)])
    counts = torch.stack([firsts[:, place].bincount(minlength=8) for place in range(8)]).double()
    chi2 = ((counts - 500) ** 2 / 500).sum()  # 49 degrees of freedom: mean 49, standard deviation 9.9
    assert chi2 < 49 + 5 * 9.9


def test_flips_are_fair_and_differ_by_epoch_rank_and_from_the_order() -> None:
    keys = [(0, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0)]  # seed, epoch, rank
    masks = {key: torch.cat(list(epoch_flips([600, 400], *key))) for key in keys}
    assert torch.equal(masks[0, 0, 0], torch.cat(list(epoch_flips([1000], 0, 0, 0))))
    for key, mask in masks.items():
        assert abs(mask.double().mean() - 0.5) < 5 * 0.5 / 1000**0.5
        for other in masks.keys() - {key}:
            assert abs((mask == masks[other]).double().mean() - 0.5) < 5 * 0.5 / 1000**0.5


def test_mirror_is_what_pillow_calls_mirror() -> None:
    x = torch.randint(0, 256, (4, 3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    got = mirror(x.clone(), torch.tensor([True, False, True, False]))
    for i in range(4):
        image = Image.fromarray(x[i].permute(1, 2, 0).numpy())
        want = np.asarray(ImageOps.mirror(image) if i % 2 == 0 else image)
        assert np.array_equal(got[i].permute(1, 2, 0).numpy(), want)


def loader(images: Images) -> Epochs:
    def epoch(number: int, skip: int) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        order = epoch_batches(50, 8, 0, number)
        return batches_of_epoch(images, order, epoch_flips(map(len, order), seed=0, epoch=number), skip)

    return Epochs(epoch)


@pytest.mark.parametrize("labelled", [True, False])
def test_epochs_follow_each_other_and_resume_after_any_batch(labelled: bool) -> None:
    x = torch.arange(200, dtype=torch.uint8).view(50, 1, 2, 2)
    images = Images(x, torch.arange(50) if labelled else None)
    batches = list(islice(loader(images), 15))
    order = [index for number in range(3) for index in epoch_batches(50, 8, 0, number)]  # 6 batches an epoch
    for (got, y), index in zip(batches, order):
        assert all(torch.equal(a, b) or torch.equal(a, b.flip(-1)) for a, b in zip(got, x[index]))
        assert y is None if not labelled else torch.equal(y, index)
    for n in range(15):
        before, after = loader(images), loader(images)
        list(islice(before, n))
        after.load_state_dict(before.state_dict())
        rest = list(islice(after, 15 - n))
        assert all(torch.equal(a[0], b[0]) for a, b in zip(rest, batches[n:], strict=True))


def test_batches_are_the_same_at_every_iteration() -> None:
    x = torch.arange(50, dtype=torch.uint8).view(50, 1, 1, 1)
    evaluation = Batches(Images(x), ordered_batches(50, 8))
    for _ in range(2):
        assert torch.equal(torch.cat([batch for batch, _ in evaluation]), x)
    assert len(evaluation) == 7


def test_an_epoch_without_a_batch_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"do not fill one batch: lower data.batch_size"):
        next(iter(Epochs(lambda number, skip: iter([]))))
