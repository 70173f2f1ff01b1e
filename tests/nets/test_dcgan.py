"""The strided nets: sizes, and the layers of the paper."""

import pytest
import torch
from torch import nn

from genzoo.nets.dcgan import Decoder, Encoder


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 48), (1, 15, 17), (2, 1, 1)])
def test_from_image_to_vector_and_back(shape):
    encoder, decoder = Encoder(shape, 6, width=8), Decoder(shape, 6, shape[0], width=8)
    z = encoder(torch.randn(3, *shape))
    assert z.shape == (3, 6)
    assert decoder(z).shape == (3, *shape)


def test_every_resolution_but_the_first_is_one_strided_layer():
    decoder = Decoder((3, 32, 32), 6, 3, width=8)
    doubling = [m for m in decoder if isinstance(m, nn.ConvTranspose2d)]
    assert [m.out_channels for m in doubling] == [32, 16, 8]  # from 4x4: 8x8, 16x16, 32x32
    halving = [m for m in Encoder((3, 32, 32), 6, width=8) if isinstance(m, nn.Conv2d) and m.stride == (2, 2)]
    assert [m.out_channels for m in halving] == [16, 32, 32]
