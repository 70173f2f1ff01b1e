"""The conventions that every room shares: 8-bit images and bits per dimension, against counting."""

import math

import torch

from genzoo.generator import bits_per_dim, from_uint8, to_uint8


def test_every_level_maps_to_itself() -> None:
    u = torch.arange(256)
    assert torch.equal(to_uint8(from_uint8(u)), u.to(torch.uint8))


def test_out_of_range_is_clipped() -> None:
    assert to_uint8(torch.tensor([-9.0, -1.02, 1.02, 9.0])).tolist() == [0, 0, 255, 255]


def test_uniform_density_is_eight_bits() -> None:
    # 256 levels of width 1 / 127.5, each with probability 1 / 256
    log_prob = torch.tensor([12 * math.log(127.5 / 256)], dtype=torch.float64)
    torch.testing.assert_close(bits_per_dim(log_prob, 12), torch.tensor([8.0], dtype=torch.float64))


def test_a_sure_level_is_zero_bits() -> None:
    log_prob = torch.tensor([12 * math.log(127.5)], dtype=torch.float64)
    torch.testing.assert_close(bits_per_dim(log_prob, 12), torch.zeros(1, dtype=torch.float64))
