"""The embedded digits: all of scikit-learn's images, cut the same way for ever."""

import numpy as np
import torch
from sklearn.datasets import load_digits

from genzoo.data.datamodule import DataModule
from genzoo.data.digits import digits


def test_the_three_splits_are_all_of_the_digits_each_once() -> None:
    splits = digits()
    images, labels = load_digits(return_X_y=True)
    assert [len(part.x) for part in splits[:3]] == [1297, 100, 400]
    x = torch.cat([part.x for part in splits[:3]]).view(-1, 64).numpy()
    y = torch.cat([part.y for part in splits[:3]]).numpy()
    assert x.dtype == np.uint8 and x.max() == 255
    back = np.c_[np.round(x * (16 / 255)), y]  # the 17 levels survive
    order, want = np.lexsort(back.T), np.c_[images, labels]
    assert np.array_equal(back[order], want[np.lexsort(want.T)])
    assert len(np.unique(x, axis=0)) == len(x)  # no image twice, so the splits are disjoint


def test_every_class_is_in_proportion() -> None:
    splits = digits()
    share = torch.cat([part.y for part in splits[:3]]).bincount() / 1797
    for part in splits[:3]:
        assert ((part.y.bincount() - share * len(part.y)).abs() <= 1).all()


def test_the_split_never_changes() -> None:
    data = DataModule(digits, "digits", (1, 8, 8), 64)
    assert data.content_hash("test") == "ccd88133778765f9a65b3a19cddc4ece80e68bf67850b6f13c58b73388616f76"
    assert data.content_hash("train") == "a9066745bb9b04f347fbd30227ce2109416524509f4e15871d0502a7998fb3b4"
