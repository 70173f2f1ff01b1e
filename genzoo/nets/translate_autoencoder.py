"""Our autoencoders as diffusers' AutoencoderKL or VQModel: the same function, in more channels.

Three things differ there, and each is undone without an error. Channels may not change with a halving, and all
normalisations have the same number of groups: groups and channels are repeated until all resolutions have as many, by
which means and variances stay as they were. Their eps is a tenth of ours: what is normalised is made sqrt(1/10) as
large. There are more residual blocks: the branches of these are 0.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from genzoo.nets.autoencoder import Gaussian
from genzoo.nets.conv import ResBlock
from genzoo.nets.translate_unet import norms, only


def autoencoder(
    encoder: nn.Sequential,
    decoder: nn.Sequential,
    bottleneck: nn.Module,
    image_shape: Sequence[int],
    mean: Tensor | None = None,
    std: Tensor | None = None,
) -> nn.Module:
    """AutoencoderKL or VQModel of genzoo.nets.autoencoder's nets; its latents are (z - mean) / std, both (c, 1, 1).

    diffusers halves by looking right and down, ours on all sides: an encoder that does so has no equal, and is NaN.
    Raises ValueError for odd sizes, other normalisations, and codes with more than one std.
    """
    from diffusers import AutoencoderKL, VQModel

    c = bottleneck.channels
    mean = torch.zeros(c) if mean is None else mean.flatten()
    std = torch.ones(c) if std is None else std.flatten()
    common = wide(encoder, decoder, image_shape) | {"latent_channels": c, "scaling_factor": 1.0}
    if isinstance(bottleneck, Gaussian):
        theirs = AutoencoderKL(**common).eval()
        log_std = std.log()
        pointwise(theirs.quant_conv, torch.cat([1 / std, torch.ones(c)]), torch.cat([-mean / std, -2 * log_std]))
    else:
        if not torch.allclose(std, std[0], rtol=1e-5):
            raise ValueError("VQModel scales all channels of its latents by one number: take a first stage with KL")
        theirs = VQModel(**common, num_vq_embeddings=bottleneck.codes).eval()
        pointwise(theirs.quant_conv, 1 / std, -mean / std)
        theirs.quantize.embedding.weight.data = (bottleneck.codebook.detach() - mean) / std
    pointwise(theirs.post_quant_conv, std, mean)
    fill_path(theirs.encoder, theirs.encoder.down_blocks, encoder, "downsamplers", common)
    fill_path(theirs.decoder, theirs.decoder.up_blocks, decoder, "upsamplers", common)
    return theirs


def can_encode(encoder: nn.Sequential) -> bool:
    """Whether diffusers has an equal of this encoder."""
    return all(layer.padding == (0, 0) for layer in encoder if isinstance(layer, nn.Conv2d) and layer.stride != (1, 1))


def wide(encoder: nn.Sequential, decoder: nn.Sequential, image_shape: Sequence[int]) -> dict[str, Any]:
    """The settings of an autoencoder of diffusers that has room for ours."""
    found = norms(encoder, decoder)
    blocks = resolutions_of(encoder)
    count = only((len(level) for level in blocks), "the number of residual blocks", "give each resolution as many")
    if not found or not count:
        raise ValueError("an autoencoder without group normalisation or residual blocks has no equal in diffusers")
    only((norm.eps for norm in found), "eps of the autoencoder's normalisations", "make them one")
    halved = 2 ** (len(blocks) - 1)
    channels, height, width = image_shape
    if height % halved or width % halved:
        raise ValueError(f"{height}x{width} is halved to odd sizes: sides must be multiples of {halved} for diffusers")
    groups = math.lcm(*(norm.num_groups for norm in found))
    size = math.lcm(*(norm.num_channels // norm.num_groups for norm in found))
    return {
        "in_channels": channels,
        "out_channels": channels,
        "down_block_types": ("DownEncoderBlock2D",) * len(blocks),
        "up_block_types": ("UpDecoderBlock2D",) * len(blocks),
        "block_out_channels": (groups * size,) * len(blocks),
        "layers_per_block": count,
        "norm_num_groups": groups,
        "sample_size": max(height, width),
        "mid_block_add_attention": False,
    }


def resolutions_of(net: nn.Sequential) -> list[list[ResBlock]]:
    """The residual blocks of each resolution of an encoder or decoder, in its order."""
    found: list[list[ResBlock]] = [[]]
    for layer in list(net)[1:-3]:
        if isinstance(layer, ResBlock):
            found[-1].append(layer)
        else:
            found.append([])
    return found


def repeated(norm: nn.GroupNorm, groups: int, channels: int) -> Tensor:
    """(channels,): of which channel of ours each of theirs is a copy; groups, and channels in them, equally often."""
    size = norm.num_channels // norm.num_groups
    copies = torch.arange(norm.num_channels).view(norm.num_groups, size)
    copies = copies.repeat_interleave(groups // norm.num_groups, 0)  # (groups, size)
    return copies.repeat_interleave(channels // groups // size, 1).flatten()


def fill_path(
    theirs: nn.Module, blocks: nn.ModuleList, net: nn.Sequential, samplers: str, wide: dict[str, Any]
) -> None:
    """An encoder or a decoder of theirs from ours."""
    first, norm, last = net[0], net[-3], net[-1]
    ours, groups, channels = resolutions_of(net), wide["norm_num_groups"], wide["block_out_channels"][0]
    copies = [repeated(level[0].branch[0], groups, channels) for level in ours]
    small = math.sqrt(theirs.conv_norm_out.eps / norm.eps)
    convolution(theirs.conv_in, first, copies[0], torch.arange(first.in_channels), small, small)
    idle(theirs.mid_block.resnets)
    for block, level, which in zip(blocks, ours, copies, strict=True):
        for resnet, res in zip(block.resnets, level, strict=False):
            fill_plain_resnet(resnet, res, which, small)
        idle(block.resnets[len(level) :])
    between = [layer for layer in list(net)[1:-3] if isinstance(layer, nn.Conv2d)]
    for block, layer, (before, after) in zip(blocks, between, pairwise(copies), strict=False):
        convolution(getattr(block, samplers)[0].conv, layer, after, before, 1.0, small)
    normalisation(theirs.conv_norm_out, norm, copies[-1])
    convolution(theirs.conv_out, last, torch.arange(last.out_channels), copies[-1], 1.0, 1.0)
    if not can_encode(net):
        theirs.conv_out.weight.data.fill_(math.nan)


def fill_plain_resnet(theirs: nn.Module, ours: ResBlock, which: Tensor, small: float) -> None:
    norm1, _, conv1, norm2, _, conv2 = ours.branch
    normalisation(theirs.norm1, norm1, which)
    convolution(theirs.conv1, conv1, which, which, small, small)
    normalisation(theirs.norm2, norm2, which)
    convolution(theirs.conv2, conv2, which, which, small, small)


def convolution(theirs: nn.Conv2d, ours: nn.Conv2d, rows: Tensor, columns: Tensor, weight: float, bias: float) -> None:
    """Copies of channels go in (`columns`) and come out (`rows`); weight, bias: what each is multiplied by."""
    theirs.weight.data = ours.weight.detach()[rows][:, columns] * (weight * ours.in_channels / len(columns))
    theirs.bias.data = ours.bias.detach()[rows] * bias


def normalisation(theirs: nn.GroupNorm, ours: nn.GroupNorm, which: Tensor) -> None:
    theirs.load_state_dict({name: value[which] for name, value in ours.state_dict().items()})


def idle(resnets: Iterable[nn.Module]) -> None:
    """Residual blocks whose branch is 0."""
    for resnet in resnets:
        for parameter in resnet.conv2.parameters():
            nn.init.zeros_(parameter)


def pointwise(theirs: nn.Conv2d, scale: Tensor, shift: Tensor) -> None:
    """A 1x1 convolution that scales and shifts each channel by itself."""
    theirs.weight.data = torch.diag(scale)[:, :, None, None]
    theirs.bias.data = shift.clone()
