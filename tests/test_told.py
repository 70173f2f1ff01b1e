"""What a generator remembers of its training data, to draw from when nobody asks."""

import torch

from genzoo.nets.conditions import Classes
from genzoo.nets.maps import Edges, Maps
from genzoo.told import examples, remembered, spread

SHAPE = (2, 8, 12)


def test_spread_keeps_shares() -> None:
    y = torch.tensor([2] * 617 + [0] * 300 + [1] * 83)[torch.randperm(1000)]
    assert torch.equal(torch.bincount(spread(y, 1000)), torch.tensor([300, 83, 617]))
    assert (torch.bincount(spread(y, 100)) - torch.tensor([30, 8, 62])).abs().max() <= 1
    assert torch.equal(torch.bincount(spread(y[:4], 10)), torch.bincount(y[:4]) * 10 // 4)
    rows = torch.rand(50, 4, 5)
    assert all((row == rows).flatten(1).all(1).any() for row in spread(rows, 20))


def test_maps_are_remembered_of_few_images() -> None:
    read = []

    def batches():
        for _ in range(100):
            read.append(1)
            yield torch.rand(30, *SHAPE), torch.zeros(30, dtype=torch.long)

    assert remembered(Edges(SHAPE), batches(), 64).shape == (64, 2, 8, 12) and len(read) == 3
    remembered(Classes(4, 6), batches(), 64)
    assert len(read) == 103
    assert examples(Classes(4, 6)).tolist() == [4] * 1000
    assert examples(Maps((3, 96, 96), 3)).shape == (113, 4, 96, 96)
    assert examples(None) is None
