"""A training step of DDPM: our UNet beside others with the same channels, blocks and attention."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.benchmarks import sides
from experiments.benchmarks.race import Absent, Race
from genzoo.diffusion.schedules import linear
from genzoo.generator import Generator
from genzoo.gpu import tune

Predict = Callable[[Tensor, Tensor], Tensor]  # (x_t, t) -> noise


def races(
    width: int = 32, side: int = 32, batch: int = 64, steps: int = 1, device: str = "cpu"
) -> Iterator[Race | Absent]:
    """width: of the full resolution, twice that below; two blocks each; attention at 16 and 4 pixels."""
    work = f"{'UNet training step' if steps == 1 else f'{steps} UNet training steps'}, {batch} x 1x{side}x{side}"
    x = sides.images(batch, side).to(device)
    for name, (module, build) in PEERS.items():
        if missing := sides.absent(work, name, module):
            yield missing
            continue
        ours = ours_of(width, side).to(device)
        net, predict = build(width, side)
        loop = sides.bare(net.to(device), noise_loss(predict, x.device), ours, [x] * steps)
        tune(ours, after=0, graphs=True)
        yield sides.race(work, name, (ours, sides.training(ours, [x] * steps)), (net, loop), comparable=False)


def ours_of(width: int, side: int, *overrides: str) -> Generator:
    return sides.model_of("model=ddpm", f"data.image_shape=[1,{side},{side}]", f"width={width}", "blocks=2", *overrides)


def noise_loss(predict: Predict, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Equation 14 of Ho et al. 2020, as the peers' examples write it."""
    alpha_bar = (1 / (1 + linear().square())).float().to(device)

    def loss_of(x: Tensor) -> Tensor:
        t = torch.randint(len(alpha_bar), (len(x),), device=x.device)
        noise, kept = torch.randn_like(x), alpha_bar[t].view(-1, 1, 1, 1)
        return F.mse_loss(predict(kept.sqrt() * x + (1 - kept).sqrt() * noise, t), noise)

    return loss_of


# --- Peers: (width, side) -> network, and how it predicts.


def levels(side: int) -> int:
    """Resolutions down to 4 pixels, as ours."""
    return (side // 4).bit_length()


def diffusers(width: int, side: int) -> tuple[nn.Module, Predict]:
    from diffusers import UNet2DModel

    attends = [side >> i in (16, 4) for i in range(levels(side))]
    net = UNet2DModel(
        sample_size=side,
        in_channels=1,
        out_channels=1,
        layers_per_block=2,
        block_out_channels=(width, *[2 * width] * (levels(side) - 1)),
        down_block_types=tuple("AttnDownBlock2D" if attend else "DownBlock2D" for attend in attends),
        up_block_types=tuple("AttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)),
        norm_num_groups=width // 4,
        attention_head_dim=min(64, 2 * width),
    )
    return net, lambda x, t: net(x, t).sample


def torchcfm(width: int, side: int) -> tuple[nn.Module, Predict]:
    from torchcfm.models.unet import UNetModel

    net = UNetModel(
        dim=(1, side, side),
        num_channels=width,
        num_res_blocks=2,
        channel_mult=(1, *[2] * (levels(side) - 1)),
        attention_resolutions="16,4",
        num_head_channels=min(64, 2 * width),
    )
    return net, lambda x, t: net(t, x)


def smalldiffusion(width: int, side: int) -> tuple[nn.Module, Predict]:
    from smalldiffusion import Unet

    multipliers = (1, *[2] * (levels(side) - 1))
    net = Unet(side, 1, 1, ch=width, ch_mult=multipliers, attn_resolutions=(16, 4), dropout=0.0)
    return net, lambda x, t: net(x, t.float())


def lucidrains(width: int, side: int) -> tuple[nn.Module, Predict]:
    from denoising_diffusion_pytorch import Unet

    attends = tuple(side >> i in (16, 4) for i in range(levels(side)))
    wider = width + width // 16  # without, it has 15% fewer parameters
    net = Unet(wider, dim_mults=(1, *[2] * (levels(side) - 1)), channels=1, full_attn=attends)
    return net, net


PEERS = {
    "diffusers' UNet2DModel": ("diffusers", diffusers),
    "torchcfm's UNetModel": ("torchcfm.models.unet", torchcfm),
    "smalldiffusion's Unet": ("smalldiffusion", smalldiffusion),
    "lucidrains' Unet": ("denoising_diffusion_pytorch", lucidrains),
}
