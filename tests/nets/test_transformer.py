"""The causal transformer: torch's own layer, what may not look ahead, codes one by one against all at once, and what is
told before them."""

import math

import pytest
import torch
from torch import Tensor, nn

from genzoo.nets.conditions import Classes, Condition, Layout
from genzoo.nets.maps import Maps
from genzoo.nets.text import Text
from genzoo.nets.transformer import Block, Transformer

CODES, LENGTH = 7, 10
TOLD = {
    "classes": (lambda: Classes(3, 8), lambda n: torch.arange(n) % 3),
    "text": (lambda: Text(6, 16, words=64, slots=4), lambda n: torch.randint(97, 123, (n, 6), dtype=torch.uint8)),
    "layout": (
        lambda: Layout(3, 2, 16),
        lambda n: torch.cat([torch.randint(3, (n, 2, 1)).float(), torch.rand(n, 2, 4)], dim=2),
    ),
}


def net(condition: Condition | None = None, **options) -> Transformer:
    """Off the zeros at which blocks are the identity."""
    made = Transformer(CODES, LENGTH, width=8, blocks=1, condition=condition, **options).eval()
    for p in made.parameters():
        nn.init.normal_(p, std=0.3)
    return made


def batch(told: str = "classes", n: int = 4) -> tuple[Tensor, Tensor]:
    """ids (n, LENGTH) and the conditions of n rows."""
    return torch.randint(CODES, (n, LENGTH)), TOLD[told][1](n)


tied_or_not = pytest.mark.parametrize("tied", [True, False])
told_each = pytest.mark.parametrize("told", TOLD)


@pytest.mark.parametrize("dim", [16, 64, 192])
def test_block_is_torchs_encoder_layer(dim: int) -> None:
    ours = Block(dim)
    theirs = nn.TransformerEncoderLayer(
        dim, ours.heads, 4 * dim, 0.0, activation="gelu", batch_first=True, norm_first=True
    )
    for p in theirs.parameters():
        nn.init.normal_(p, std=0.1)
    names = {"norm1": ours.norm1, "norm2": ours.norm2, "self_attn.out_proj": ours.out}
    names |= {"linear1": ours.perceptron[0], "linear2": ours.perceptron[2]}
    state = theirs.state_dict()
    for name, layer in names.items():
        layer.load_state_dict({key: state[f"{name}.{key}"] for key in ("weight", "bias")})
    ours.qkv.load_state_dict({key: state[f"self_attn.in_proj_{key}"] for key in ("weight", "bias")})
    x, mask = torch.randn(3, 11, dim), nn.Transformer.generate_square_subsequent_mask(11)
    expected = theirs(x, src_mask=mask, is_causal=True)
    torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-5)
    assert (expected - theirs(x)).abs().max() > 0.01  # the mask is seen


def test_heads_have_64_channels() -> None:
    assert [Block(dim).heads for dim in (16, 64, 128, 192)] == [1, 1, 2, 3]


def test_blocks_start_as_the_identity() -> None:
    x = torch.randn(2, 5, 32)
    assert torch.equal(Block(32)(x), x)


@told_each
def test_a_code_changes_nothing_before_it(told: str) -> None:
    model, (ids, y) = net(TOLD[told][0]()), batch(told)
    before = model(ids, y)
    for k in range(LENGTH):
        changed = ids.clone()
        changed[:, k] = (ids[:, k] + 1) % CODES
        after = model(changed, y)
        assert torch.equal(after[:, : k + 1], before[:, : k + 1])  # entry k tells code k of those before it
        differs = (after != before).flatten(2).any(2)
        assert differs[:, k + 1 :].all()


@tied_or_not
@told_each
def test_one_by_one_is_all_at_once(told: str, tied: bool) -> None:
    model, (ids, y) = net(TOLD[told][0](), tied=tied), batch(told)
    seen = []

    def choose(logits: Tensor, place: int) -> Tensor:
        seen.append(logits)
        return ids[:, place]

    assert torch.equal(model.unrolled(len(ids), y, choose), ids)
    torch.testing.assert_close(torch.stack(seen, dim=1), model(ids, y), rtol=0, atol=1e-5)


@told_each
def test_places_and_conditions_are_seen(told: str) -> None:
    """All codes alike, logits still depend on the place and, at each, on what is told; none differs from each."""
    condition, y = TOLD[told][0](), TOLD[told][1](3)
    model, ids = net(condition), torch.zeros(4, LENGTH, dtype=torch.int64)
    logits = model(ids, torch.cat([y, condition.null(1)]))
    for place in range(LENGTH):
        assert torch.pdist(logits[:, place]).min() > 1e-3
    assert torch.cdist(logits[0], logits[0]).fill_diagonal_(math.inf).min() > 0.01
    assert torch.equal(model(ids), model(ids, condition.null(4)))


def test_maps_are_refused() -> None:
    with pytest.raises(ValueError, match="takes no maps: set condition to"):
        net(Maps((1, 4, 4), 1))


def test_tied_logits_use_the_embeddings() -> None:
    tied, free = (
        dict(Transformer(CODES, LENGTH, width=8, tied=tied).named_parameters()).keys() for tied in (True, False)
    )
    assert free - tied == {"out"}
    model, ids = net(), batch()[0]
    before = model(ids)[:, 0]
    with torch.no_grad():
        model.embedding.weight[2] += 1  # no first code has been read: only the row of code 2 can tell
    changed = model(ids)[:, 0] != before
    assert changed[:, 2].all() and changed.sum() == len(ids)


def test_a_single_code() -> None:
    model = Transformer(CODES, 1, width=8)
    ids = torch.zeros(3, 1, dtype=torch.int64)
    logits = model(ids)
    assert logits.shape == (3, 1, CODES) and torch.equal(logits[0], logits[1])
    assert torch.equal(model.unrolled(3, None, lambda logits, _: logits.argmax(1)), logits.argmax(2))


def test_dropout_acts_in_training_alone() -> None:
    model, given = net(TOLD["classes"][0](), dropout=0.5), batch()
    assert torch.equal(model(*given), model(*given))
    model.train()
    assert not torch.equal(model(*given), model(*given))
