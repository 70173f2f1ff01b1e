"""Our UNet as diffusers' UNet2DModel, whose structure is the same (Ho et al. 2020): the same function of x, t and y.

What has no equal there is refused in one sentence and never approximated.
"""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from torch import nn

from genzoo.nets.conditions import Classes
from genzoo.nets.unet import Attention, Block, UNet

T = TypeVar("T")


def only(found: Iterable[T], what: str, remedy: str) -> T:
    """The one value of all that were found. Raises ValueError where they differ."""
    values = sorted(set(found))
    if len(values) != 1:
        there = ", ".join(map(str, values)) or "none"
        raise ValueError(f"{what} has to be one number everywhere for diffusers, and is {there}: {remedy}")
    return values[0]


def norms(*nets: nn.Module) -> list[nn.GroupNorm]:
    return [module for net in nets for module in net.modules() if isinstance(module, nn.GroupNorm)]


def unet2d(net: nn.Module, image_shape: Sequence[int], y: int | None = None) -> nn.Module:
    """diffusers' UNet2DModel with the function of a UNet at whole and broken times; of `outputs`, the first alone.

    y: of a net that knows classes, the one that is drawn from now on; None keeps them all as `class_labels`, the null
    behind them.
    Raises ValueError for what UNet2DModel cannot be told to do.
    """
    from diffusers import UNet2DModel

    refuse(net, image_shape)
    theirs = UNet2DModel(**settings(net, image_shape)).eval()
    fill_unet(theirs, net, image_shape[0])
    if isinstance(net.condition, Classes):
        said = net.conditioning.vector(net.condition.embedding.weight.detach()).detach()  # (classes + 1, time_dim)
        if y is None:
            theirs.register_to_config(num_class_embeds=len(said))
            theirs.class_embedding = nn.Embedding.from_pretrained(said, freeze=False)
        elif 0 <= y < len(said):
            theirs.time_embedding.linear_2.bias.data += said[y]
        else:
            raise ValueError(f"y={y}: this model knows the classes 0 to {len(said) - 2}, and {len(said) - 1} for none")
    elif y is not None:
        raise ValueError(f"y={y}: this model was trained without classes; leave y out")
    return theirs


def refuse(net: nn.Module, image_shape: Sequence[int]) -> None:
    """Raises ValueError for a net, a condition or a size that UNet2DModel does not have."""
    if not isinstance(net, UNet):
        raise ValueError(f"{type(net).__name__} has no equal in diffusers: only models with genzoo.nets.unet.UNet have")
    if net.condition is not None and not isinstance(net.condition, Classes):
        name = type(net.condition).__name__
        raise ValueError(f"UNet2DModel cannot be told {name}: only classes, or no condition, can be exported")
    halved = 2 ** (len(levels(net.down)) - 1)
    if any(side % halved for side in image_shape[1:]):
        sides = "x".join(map(str, image_shape[1:]))
        raise ValueError(f"{sides} is halved to odd sizes, which UNet2DModel cannot: take multiples of {halved}")


def settings(net: UNet, image_shape: Sequence[int]) -> dict[str, Any]:
    """What UNet2DModel is made of, read from the net itself."""
    down = levels(net.down)
    attends = [isinstance(level[0].attention, Attention) for level in down]
    attentions = [module for module in net.modules() if isinstance(module, Attention)]
    head_dims = [module.out.in_features // module.heads for module in attentions]
    _, height, width = image_shape
    return {
        "sample_size": height if height == width else (height, width),
        "in_channels": net.stem.in_channels,
        "out_channels": image_shape[0],
        "layers_per_block": len(down[0]),
        "block_out_channels": tuple(level[0].res.conv1.out_channels for level in down),
        "down_block_types": tuple("AttnDownBlock2D" if attend else "DownBlock2D" for attend in attends),
        "up_block_types": tuple("AttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)),
        "flip_sin_to_cos": False,  # our sinusoids are (sin, cos)
        "dropout": down[0][0].res.dropout.p,
        "norm_num_groups": only(
            (norm.num_groups for norm in norms(net)),
            "the number of groups of the UNet's normalisations",
            "take a width that is a multiple of 128, or a net with one number of groups",
        ),
        "norm_eps": only((norm.eps for norm in norms(net)), "eps of the UNet's normalisations", "make them one"),
        "attention_head_dim": only(
            head_dims, "channels of an attention head", "take a width from 64 on, or one resolution with attention"
        ),
    }


def levels(layers: nn.ModuleList) -> list[list[Block]]:
    """The blocks of each resolution, between the convolutions that change it."""
    found: list[list[Block]] = [[]]
    for layer in layers:
        if isinstance(layer, Block):
            found[-1].append(layer)
        else:
            found.append([])
    return found


def fill_unet(theirs: nn.Module, net: UNet, channels: int) -> None:
    same(theirs.conv_in, net.stem)
    same(theirs.time_embedding.linear_1, net.conditioning.time[0])
    same(theirs.time_embedding.linear_2, net.conditioning.time[2])
    down, up = iter(net.down), iter(net.up)
    for block in theirs.down_blocks:
        fill_level(block, down)
        for sampler in block.downsamplers or ():
            same(sampler.conv, next(down))
    fill_level(theirs.mid_block, iter(net.middle))
    for block in theirs.up_blocks:
        fill_level(block, up)
        for sampler in block.upsamplers or ():
            same(sampler.conv, next(up))
    same(theirs.conv_norm_out, net.out[0])
    theirs.conv_out.load_state_dict({name: value[:channels] for name, value in net.out[2].state_dict().items()})


def fill_level(theirs: nn.Module, ours: Iterable[Block]) -> None:
    """A block of theirs is a resolution of ours, or the middle, which ends without attention."""
    attentions = iter(getattr(theirs, "attentions", ()))
    for resnet, block in zip(theirs.resnets, ours, strict=False):
        fill_resnet(resnet, block)
        if isinstance(block.attention, Attention):
            fill_attention(next(attentions), block.attention)


def same(theirs: nn.Module, ours: nn.Module) -> None:
    theirs.load_state_dict(ours.state_dict())


def fill_resnet(theirs: nn.Module, block: Block) -> None:
    res = block.res
    pairs = {"norm1": res.norm1, "conv1": res.conv1, "norm2": res.norm2, "conv2": res.conv2, "time_emb_proj": res.time}
    for name, module in pairs.items():
        same(getattr(theirs, name), module)
    if theirs.conv_shortcut is not None:
        same(theirs.conv_shortcut, res.skip)


def fill_attention(theirs: nn.Module, ours: Attention) -> None:
    same(theirs.group_norm, ours.norm)
    same(theirs.to_out[0], ours.out)
    for name, weight, bias in zip("qkv", ours.qkv.weight.chunk(3), ours.qkv.bias.chunk(3), strict=True):
        getattr(theirs, f"to_{name}").load_state_dict({"weight": weight, "bias": bias})
