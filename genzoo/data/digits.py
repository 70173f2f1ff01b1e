"""The 1,797 handwritten 8x8 digits that ship inside scikit-learn: no network, no files."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from genzoo.data.splits import Images, Splits

SPLIT_SEED = 0  # never change it: published scores are for this test set


def digits() -> Splits:
    """Train 1,297, validation 100, test 400 images (1, 8, 8), every class in proportion.

    The 17 grey levels 0..16 become round(255 * level / 16). Source: E. Alpaydin and C. Kaynak, Optical
    Recognition of Handwritten Digits, UCI machine learning repository, 1998; scikit-learn carries its test
    part.
    """
    images, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(np.round(images * (255 / 16)).astype(np.uint8)).view(-1, 1, 8, 8)  # (1797, 1, 8, 8)
    y = torch.from_numpy(labels).long()
    rest, test = _stratified(np.arange(len(y)), labels, 400)
    train, val = _stratified(rest, labels, 100)
    parts = [Images(x[index], y[index]) for index in (train, val, test)]
    return Splits(*parts, class_names=tuple("0123456789"))


def _stratified(index: np.ndarray, labels: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """`index` without, and only, n of its entries that keep the proportions of `labels`."""
    rest, out = train_test_split(index, test_size=n, stratify=labels[index], random_state=SPLIT_SEED)
    return rest, out
