"""The causal transformer: torch's own layer, what may not look ahead, and codes one by one against all at once."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genzoo.nets.transformer import Block, Transformer

CODES, LENGTH, CLASSES = 7, 10, 3


def net(**options) -> Transformer:
    """Off the zeros at which blocks are the identity."""
    made = Transformer(CODES, LENGTH, width=8, blocks=1, classes=CLASSES, **options).eval()
    for p in made.parameters():
        nn.init.normal_(p, std=0.3)
    return made


def batch(n: int = 4) -> tuple[Tensor, Tensor]:
    """ids (n, LENGTH) and told (n, CLASSES)."""
    return torch.randint(CODES, (n, LENGTH)), F.one_hot(torch.arange(n) % CLASSES, CLASSES).float()


tied_or_not = pytest.mark.parametrize("tied", [True, False])


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


@tied_or_not
def test_a_code_changes_nothing_before_it(tied: bool) -> None:
    model, (ids, told) = net(tied=tied), batch()
    before = model(ids, told)
    for k in range(LENGTH):
        changed = ids.clone()
        changed[:, k] = (ids[:, k] + 1) % CODES
        after = model(changed, told)
        assert torch.equal(after[:, : k + 1], before[:, : k + 1])  # entry k tells code k of those before it
        differs = (after != before).flatten(2).any(2)
        assert differs[:, k + 1 :].all()


@tied_or_not
def test_one_by_one_is_all_at_once(tied: bool) -> None:
    model, (ids, told) = net(tied=tied), batch()
    seen = []

    def choose(logits: Tensor, place: int) -> Tensor:
        seen.append(logits)
        return ids[:, place]

    assert torch.equal(model.unrolled(told, choose), ids)
    torch.testing.assert_close(torch.stack(seen, dim=1), model(ids, told), rtol=0, atol=1e-5)


def test_places_and_classes_are_seen() -> None:
    """All codes alike, logits still depend on the place and on the class; no class differs from each."""
    model = net()
    ids = torch.zeros(CLASSES + 1, LENGTH, dtype=torch.int64)
    logits = model(ids, torch.cat([torch.eye(CLASSES), torch.zeros(1, CLASSES)]))
    flat = logits.flatten(1)
    assert torch.cdist(flat, flat).fill_diagonal_(math.inf).min() > 0.1
    assert torch.cdist(logits[0], logits[0]).fill_diagonal_(math.inf).min() > 0.01


def test_tied_logits_use_the_embeddings() -> None:
    tied, free = (
        dict(Transformer(CODES, LENGTH, width=8, tied=tied).named_parameters()).keys() for tied in (True, False)
    )
    assert free - tied == {"out"}
    model, (ids, told) = net(), batch()
    before = model(ids, told)[:, 0]
    with torch.no_grad():
        model.embedding.weight[2] += 1  # no first code has been read: only the row of code 2 can tell
    changed = model(ids, told)[:, 0] != before
    assert changed[:, 2].all() and changed.sum() == len(ids)


def test_a_single_code() -> None:
    model = Transformer(CODES, 1, width=8)
    ids, told = torch.zeros(3, 1, dtype=torch.int64), torch.zeros(3, 0)
    logits = model(ids, told)
    assert logits.shape == (3, 1, CODES) and torch.equal(logits[0], logits[1])
    assert torch.equal(model.unrolled(told, lambda logits, _: logits.argmax(1)), logits.argmax(2))


def test_dropout_acts_in_training_alone() -> None:
    model, given = net(dropout=0.5), batch()
    assert torch.equal(model(*given), model(*given))
    model.train()
    assert not torch.equal(model(*given), model(*given))
