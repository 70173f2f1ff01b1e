"""DiT's parts and whole against diffusers' with the same weights, and on every size."""

import diffusers
import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from torch import Tensor, nn

from genzoo.nets.conditions import Classes
from genzoo.nets.dit import Block, CrossAttention, DiT, patch_size
from genzoo.nets.unet import positions


def randomised(net: nn.Module) -> nn.Module:
    """Off the zeros at which blocks are the identity."""
    for p in net.parameters():
        nn.init.normal_(p, std=0.1)
    return net.eval()


class Told(nn.Module):
    """Stands where diffusers embeds time and class, and says what it was given."""

    def __init__(self, c: Tensor) -> None:
        super().__init__()
        self.c = c

    def forward(self, *_: object, **__: object) -> Tensor:
        return self.c


def block_weights(ours: Block) -> dict[str, Tensor]:
    """A block's weights under diffusers' names."""
    named = {"norm1.linear": ours.modulation, "attn1.to_out.0": ours.out}
    named |= {"ff.net.0.proj": ours.perceptron[0], "ff.net.2": ours.perceptron[3]}
    state = {f"{name}.{key}": p for name, layer in named.items() for key, p in layer.state_dict().items()}
    for key, p in ours.qkv.state_dict().items():
        state |= {f"attn1.to_{part}.{key}": rows for part, rows in zip("qkv", p.chunk(3))}
    return state


def their_block(ours: Block, dim: int, c: Tensor) -> BasicTransformerBlock:
    theirs = BasicTransformerBlock(
        dim, dim // 64 or 1, min(dim, 64), activation_fn="gelu-approximate", attention_bias=True,
        num_embeds_ada_norm=10, norm_type="ada_norm_zero", norm_elementwise_affine=False, norm_eps=1e-6,
    )  # fmt: skip
    theirs.norm1.emb = Told(c)
    theirs.load_state_dict(block_weights(ours))
    return theirs.eval()


@pytest.mark.parametrize("dim", [32, 64, 192])
def test_block_is_diffusers(dim: int) -> None:
    ours = randomised(Block(dim))
    x, c = torch.randn(3, 10, dim), torch.randn(3, dim)
    expected = their_block(ours, dim, c)(x, timestep=torch.zeros(3), class_labels=torch.zeros(3))
    torch.testing.assert_close(ours(x, nn.functional.silu(c)), expected, rtol=0, atol=3e-5)
    assert (expected - x).abs().max() > 0.1


@pytest.mark.parametrize(("rows", "columns", "dim"), [(4, 4, 16), (3, 7, 32)])
def test_positions_are_diffusers(rows: int, columns: int, dim: int) -> None:
    side = max(rows, columns)
    theirs = get_2d_sincos_pos_embed(dim, side, base_size=side, output_type="pt").view(side, side, dim)
    expected = theirs[:rows, :columns].reshape(-1, dim).float()
    torch.testing.assert_close(positions(rows, columns, dim), expected, rtol=0, atol=1e-5)


def test_the_whole_is_diffusers() -> None:
    """Their net between our embedding of the time and the image: patches, places, blocks, last layer."""
    ours = randomised(DiT((3, 32, 32), width=16, blocks=1, outputs=2))
    theirs = diffusers.DiTTransformer2DModel(
        num_attention_heads=1, attention_head_dim=64, in_channels=3, out_channels=6, num_layers=3, sample_size=32,
        patch_size=2, num_embeds_ada_norm=10, norm_eps=1e-6,
    ).eval()  # fmt: skip
    x, t = torch.randn(2, 3, 32, 32), torch.tensor([3.0, 700.0])
    heard = []
    ours.conditioning.register_forward_hook(lambda module, args, out: heard.append(out))
    found = ours(x, t)
    state = {f"transformer_blocks.{i}.{k}": p for i, b in enumerate(ours.blocks) for k, p in block_weights(b).items()}
    named = {"pos_embed.proj": ours.stem, "proj_out_1": ours.modulation, "proj_out_2": ours.out}
    state |= {f"{name}.{key}": p for name, layer in named.items() for key, p in layer.state_dict().items()}
    # our last layer has a pixel's channels together, theirs a channel's pixels
    for key in ("weight", "bias"):
        ordered = state[f"proj_out_2.{key}"].unflatten(0, (6, 4)).transpose(0, 1).flatten(0, 1)
        state[f"proj_out_2.{key}"] = ordered
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected and all("norm1.emb" in name or "pos_embed.pos_embed" == name for name in missing)

    class Silu(nn.Module):  # what heard says is already past the SiLU that their layers begin with
        def forward(self, c: Tensor) -> Tensor:
            return c

    for block in theirs.transformer_blocks:
        block.norm1.emb, block.norm1.silu = Told(heard[0]), Silu()
    theirs.proj_out_1 = Told(theirs.proj_out_1(heard[0]))
    expected = theirs(x, timestep=t, class_labels=torch.zeros(2, dtype=torch.long)).sample
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert found.abs().max() > 0.1


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 32, 48), (1, 15, 17), (2, 1, 1), (1, 7, 300)])
def test_any_size(shape: tuple[int, int, int]) -> None:
    net = randomised(DiT(shape, width=8, blocks=1, times=2, outputs=2))
    out = net(torch.randn(2, *shape), torch.rand(2, 2))
    assert out.shape == (2, 2 * shape[0], *shape[1:])
    assert out.isfinite().all() and out.std() > 0


def test_patches_are_at_most_256() -> None:
    assert [patch_size(h, w) for h, w in ((16, 16), (17, 16), (32, 48), (64, 64), (1, 1))] == [1, 2, 3, 4, 1]
    with pytest.raises(ValueError, match="0x4 pixels cannot be learned"):
        patch_size(0, 4)


def test_it_starts_at_zero_and_its_blocks_as_the_identity() -> None:
    net = DiT((1, 8, 8), width=8, blocks=1, condition=Classes(3, 8))
    x, t = torch.randn(2, 1, 8, 8), torch.zeros(2)
    assert not net(x, t, torch.tensor([0, 1])).any()
    h, c, tokens = torch.randn(2, 5, 32), torch.randn(2, 32), torch.randn(2, 3, 12)
    assert torch.equal(Block(32, tokens=12)(h, c, tokens), h)


def test_cross_attention_is_diffusers() -> None:
    ours = CrossAttention(128, tokens=20)
    nn.init.normal_(ours.out.weight, std=0.1)
    theirs = diffusers.models.attention_processor.Attention(128, 20, heads=2, dim_head=64, bias=True)
    weight, bias = ours.kv.weight.chunk(2), ours.kv.bias.chunk(2)
    parts = [ours.q.weight, ours.q.bias, weight[0], bias[0], weight[1], bias[1], ours.out.weight, ours.out.bias]
    theirs.load_state_dict(dict(zip(theirs.state_dict(), parts, strict=True)))
    x, tokens = torch.randn(2, 9, 128), torch.randn(2, 7, 20)
    torch.testing.assert_close(ours(x, tokens), theirs(ours.norm(x), tokens), rtol=0, atol=1e-5)


def test_each_image_has_its_own_time_and_class() -> None:
    net = randomised(DiT((1, 8, 8), width=8, condition=Classes(3, 8)))
    x, t, y = torch.randn(3, 1, 8, 8), torch.tensor([0, 400, 999]), torch.tensor([2, 0, 3])
    apart = torch.cat([net(x[i : i + 1], t[i : i + 1], y[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(net(x, t, y), apart, rtol=1e-4, atol=1e-5)
    assert (net(x, t, y) - net(x, t.flip(0), y))[0].abs().max() > 1e-4
