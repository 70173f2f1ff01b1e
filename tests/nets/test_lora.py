"""LoRA: nothing at first, then W + alpha / r B A in every layer, merged without a trace."""

import pytest
import torch
from torch import nn

from genzoo.nets.conditions import Classes
from genzoo.nets.lora import LowRank, adapt, base, merge
from genzoo.nets.text import Text
from genzoo.nets.unet import UNet


def unet(**options) -> UNet:
    """A net none of whose weights is zero."""
    net = UNet((1, 8, 8), 8, blocks=1, attention=(4,), **options).eval()
    for p in net.parameters():
        nn.init.normal_(p, std=0.1)
    return net


def outputs(net: nn.Module) -> torch.Tensor:
    torch.manual_seed(1)
    with torch.no_grad():
        return net(torch.randn(3, 1, 8, 8), torch.tensor([0.0, 10.0, 500.0]))


def trained(net: nn.Module) -> nn.Module:
    """As training would leave the terms: B is zero no more."""
    for module in net.modules():
        if isinstance(module, LowRank):
            nn.init.normal_(module.B, std=0.1)
    return net


def test_it_starts_as_nothing_bit_for_bit_and_does_not_stay_so() -> None:
    net = unet()
    before = outputs(net)
    assert torch.equal(outputs(adapt(net, 4)), before)
    assert (outputs(trained(net)) - before).abs().max() > 0.01


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3, 3)])
@pytest.mark.parametrize("alpha", [None, 6.0])
def test_the_weight_is_w_plus_alpha_over_r_b_a(shape: tuple[int, ...], alpha: float | None) -> None:
    layer = nn.Linear(7, 5) if len(shape) == 2 else nn.Conv2d(7, 5, 3)
    w = layer.weight.detach().clone()
    trained(adapt(nn.Sequential(layer), 3, alpha))
    term = layer.parametrizations.weight[0]
    scale = {None: 1.0, 6.0: 2.0}[alpha]
    change = torch.einsum("or,rk->ok", term.B, term.A).reshape(shape)
    assert term.A.shape == (3, w[0].numel()) and term.B.shape == (5, 3)
    torch.testing.assert_close(layer.weight, w + scale * change)
    merge(nn.Sequential(layer))
    assert type(layer.weight) is nn.Parameter and layer.weight.shape == shape
    torch.testing.assert_close(layer.weight, w + scale * change)


def test_a_kernel_is_a_pair_of_convolutions() -> None:
    """r filters of the kernel's size, then a 1x1 convolution to the layer's channels."""
    conv = nn.Conv2d(4, 6, 3, padding=1)
    plain, term = conv.weight.detach().clone(), trained(adapt(nn.Sequential(conv), 2))[0].parametrizations.weight[0]
    x = torch.randn(2, 4, 5, 5)
    inner = nn.functional.conv2d(x, term.A.view(2, 4, 3, 3), padding=1)
    pair = nn.functional.conv2d(inner, term.B.view(6, 2, 1, 1))
    torch.testing.assert_close(conv(x), nn.functional.conv2d(x, plain, conv.bias, padding=1) + pair)


def test_only_the_terms_train_and_their_number_is_the_closed_form() -> None:
    net, plain = adapt(unet(), 4), unet()
    layers = [m for m in plain.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    expected = sum(4 * (m.weight.shape[0] + m.weight[0].numel()) for m in layers)
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == expected
    before = {name: p.clone() for name, p in net.named_parameters()}
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.5, fused=True)
    for _ in range(2):  # at the first A has no gradient, since B is zero
        optimizer.zero_grad()
        net(torch.randn(2, 1, 8, 8), torch.tensor([1.0, 2.0])).square().mean().backward()
        optimizer.step()
    moved = {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if name.endswith((".A", ".B"))}


def test_a_merged_net_is_a_plain_one_with_equal_outputs() -> None:
    net = trained(adapt(unet(), 4, alpha=8))
    adapted = outputs(net)
    plain = unet()
    plain.load_state_dict(merge(net).state_dict())
    assert torch.equal(outputs(plain), adapted)
    assert all(p.requires_grad for p in net.parameters())


def test_base_names_the_frozen_weights_as_a_plain_net_does() -> None:
    net, plain = adapt(unet(), 4, modules="attention"), unet()
    state = base(net)
    assert state.keys() == plain.state_dict().keys()
    with torch.no_grad():
        for name, value in plain.state_dict().items():
            state[name].copy_(value)
    assert torch.equal(outputs(net), outputs(plain))


@pytest.mark.parametrize("widths", [{}, {"kdim": 6, "vdim": 10}])
def test_attention_s_queries_keys_and_values_get_terms(widths: dict[str, int]) -> None:
    """As Hu et al. adapt them (section 4.2); torch keeps them in one parameter where they have one width."""
    attention = nn.MultiheadAttention(8, 2, batch_first=True, **widths)
    names = ["q_proj_weight", "k_proj_weight", "v_proj_weight"] if widths else ["in_proj_weight"]
    before = {name: getattr(attention, name).detach().clone() for name in names}
    layer = trained(adapt(nn.ModuleList([attention]), 2, alpha=6.0))[0]
    terms = {name: layer.parametrizations[name][0] for name in names}
    wanted = {name: w + 3 * terms[name].B @ terms[name].A for name, w in before.items()}
    assert sum(p.requires_grad for p in layer.parameters()) == 2 * len(names) + 2  # and those of out_proj
    plain = nn.MultiheadAttention(8, 2, batch_first=True, **widths)
    assert base(nn.ModuleList([layer])).keys() == nn.ModuleList([plain]).state_dict().keys()
    merge(nn.ModuleList([layer]))
    assert type(layer) is nn.MultiheadAttention and layer.state_dict().keys() == plain.state_dict().keys()
    for name in names:
        torch.testing.assert_close(getattr(layer, name), wanted[name])


def test_a_text_s_transformer_starts_and_is_merged_bit_for_bit() -> None:
    """In evaluation without gradients, where torch's layer reads the weights of its parts by a faster path."""
    text = Text(10, 64, slots=6).eval()
    y = torch.tensor([list(b"a seven   "), list(b"a two     ")], dtype=torch.uint8)
    with torch.no_grad():
        before = text(y).tokens
        assert torch.equal(adapt(text, 2)(y).tokens, before)
        for name, module in trained(text).named_modules():  # of the attention alone
            if isinstance(module, LowRank) and "in_proj_weight" not in name:
                module.B.zero_()
        adapted = text(y).tokens
        assert (adapted - before).abs().max() > 1e-4
        assert torch.equal(merge(text)(y).tokens, adapted)


def test_a_pattern_chooses_layers_and_a_wrong_one_is_named() -> None:
    names = [name for name, p in adapt(unet(), 2, modules=r"attention\.qkv").named_parameters() if p.requires_grad]
    assert names and all(".attention.qkv.parametrizations.weight.0." in name for name in names)
    with pytest.raises(
        ValueError, match=r"^lora\.modules=cross is in no layer's name: there are conditioning\.time\.0"
    ):
        adapt(unet(), 2, modules="cross")
    with pytest.raises(ValueError, match=r"^lora\.modules=\( is no pattern"):
        adapt(unet(), 2, modules="(")


def test_embeddings_train_when_asked_to_and_what_was_frozen_stays_so() -> None:
    def learns(**options) -> bool:
        net = adapt(unet(condition=Classes(3, 8)), 2, **options)
        return net.condition.embedding.weight.requires_grad

    assert learns(embeddings=True) and not learns()
    net = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 2))  # as a frozen first stage
    names = [name for name, p in adapt(net, 1).named_parameters() if p.requires_grad]
    assert names == ["1.parametrizations.weight.0.A", "1.parametrizations.weight.0.B"]
