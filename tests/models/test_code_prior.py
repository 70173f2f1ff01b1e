"""The prior of codes: closed forms of its loss, the law of its samples, classes, and what its first stage must be."""

import math
from functools import partial
from itertools import product

import pytest
import torch
from pytorch_lightning import Trainer
from scipy import stats
from torch import Tensor, nn

from genzoo import runs
from genzoo.data.datamodule import DataModule
from genzoo.data.digits import digits
from genzoo.generator import HasLikelihood, TakesClasses
from genzoo.metrics.draw import draw, per_image
from genzoo.models.code_prior import CodePrior, inverted
from genzoo.nets.conditions import Classes, Condition
from genzoo.nets.text import Text
from genzoo.nets.transformer import Transformer

SHAPE = (1, 4, 4)
QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


class Levels(nn.Module):
    """A first stage whose codes are the grey levels of squares of 4 // side pixels, K from -1 to 1."""

    def __init__(self, codes: int, side: int = 4) -> None:
        super().__init__()
        self.codebook_size, self.image_shape, self.latent_shape = codes, SHAPE, (1, side, side)
        self.level = nn.Parameter(torch.linspace(-1, 1, codes))

    def codes(self, x: Tensor) -> Tensor:
        step = x.shape[-1] // self.latent_shape[-1]
        return (x[:, 0, ::step, ::step, None] - self.level).abs().argmin(-1)

    def decode_codes(self, ids: Tensor) -> Tensor:
        step = SHAPE[-1] // ids.shape[-1]
        return self.level.detach()[ids][:, None].repeat_interleave(step, 2).repeat_interleave(step, 3)


def prior(
    codes: int = 4, side: int = 4, width: int = 8, lr: float = 1e-2, condition: Condition | None = None, **options
) -> CodePrior:
    net = partial(Transformer, width=width, blocks=1, condition=condition)
    return CodePrior(SHAPE, partial(torch.optim.Adam, lr=lr), Levels(codes, side), net, **options)


def scrambled(model: CodePrior, std: float = 0.3) -> CodePrior:
    """In place of a training: logits that depend on all codes before."""
    for p in model.net.parameters():
        nn.init.normal_(p, std=std)
    return model.eval()


def learn(model: CodePrior, batches: list[tuple[Tensor, Tensor | None]]) -> None:
    optimizer = model.configure_optimizers()
    for x, y in batches:
        optimizer.zero_grad()
        model.loss(x, y)["loss"].backward()
        optimizer.step()


# --- The loss.


def test_knowing_nothing_costs_log_k() -> None:
    model, ids = prior(codes=5), torch.randint(5, (6, 4, 4))
    for p in model.net.parameters():
        nn.init.zeros_(p)
    terms = model.loss(ids)
    torch.testing.assert_close(terms["loss"].item(), math.log(5))
    torch.testing.assert_close(terms["bits_per_code"].item(), math.log2(5))


def test_at_the_start_little_is_known() -> None:
    model = prior(codes=64, width=32)
    assert model.loss(torch.randint(64, (32, 4, 4)))["loss"].item() == pytest.approx(math.log(64), rel=0.02)


def test_probabilities_of_all_sequences_sum_to_one() -> None:
    """exp(-L loss) is the probability of a sequence."""
    model = scrambled(prior(codes=3, side=2))
    every = torch.tensor(list(product(range(3), repeat=4))).view(-1, 2, 2)
    total = sum(torch.exp(-4 * model.loss(ids[None])["loss"].double()) for ids in every)
    torch.testing.assert_close(total.item(), 1.0, rtol=0, atol=1e-5)


def test_images_cost_what_their_codes_cost() -> None:
    model = scrambled(prior())
    ids = torch.randint(4, (5, 4, 4))
    assert torch.equal(model.loss(model.first_stage.decode_codes(ids))["loss"], model.loss(ids)["loss"])


def chain(codes: int, n: int, length: int, moves: Tensor) -> Tensor:
    """(n, length) rows of a Markov chain from the uniform distribution."""
    rows = [torch.randint(codes, (n,))]
    while len(rows) < length:
        rows.append(torch.multinomial(moves[rows[-1]], 1)[:, 0])
    return torch.stack(rows, dim=1)


def test_a_markov_source_is_learned_to_its_entropy_and_drawn_from() -> None:
    """Moves by 0, 1 or 2 (mod 4), with the uniform distribution as the stationary one: log 4 + 15 H(move) nats."""
    share = torch.tensor([0.7, 0.2, 0.1, 0.0])
    moves = torch.stack([share.roll(i) for i in range(4)])
    entropy = (math.log(4) + 15 * stats.entropy(share)) / 16
    model = prior(lr=2e-2)
    learn(model, [(chain(4, 64, 16, moves).view(-1, 4, 4), None) for _ in range(100)])
    model.eval()
    with torch.no_grad():
        held_out = model.loss(chain(4, 4096, 16, moves).view(-1, 4, 4))["loss"].item()
    assert entropy - 0.01 < held_out < 1.02 * entropy  # .01: three standard errors of the held-out rows
    rows = model.draw(2000).flatten(1)
    steps = (rows.diff(dim=1) % 4).flatten().bincount(minlength=4) / 15 / 2000
    assert (steps - share).abs().max() < 0.03


# --- Sampling.


def exact(model: CodePrior, every: Tensor) -> Tensor:
    """p(s) of sequences (m, L) by the softmax of one full call."""
    log_p = torch.log_softmax(model.net(every).double(), dim=2)
    return log_p.gather(2, every[..., None])[..., 0].sum(1).exp()


@torch.no_grad()
def test_samples_follow_the_model() -> None:
    """Counts of all 81 sequences against their probabilities (chi-square)."""
    model = scrambled(prior(codes=3, side=2), std=0.25)
    every = torch.tensor(list(product(range(3), repeat=4)))
    expected = 20_000 * exact(model, every)
    assert expected.max() > 3 * expected.median() and expected.min() > 5
    counts = (model.draw(20_000).flatten(1) @ torch.tensor([27, 9, 3, 1])).bincount(minlength=81)
    assert stats.chisquare(counts, expected * 20_000 / expected.sum()).pvalue > 1e-3


def greedy(model: CodePrior, n: int) -> Tensor:
    """The likeliest code at each place by full calls of the net, one a place."""
    ids = torch.zeros(n, 16, dtype=torch.int64)
    for place in range(16):
        ids[:, place] = model.net(ids)[:, place].argmax(1)
    return ids.view(n, 4, 4)


@pytest.mark.parametrize("option", [{"temperature": 1e-6}, {"top_k": 1}])
@torch.no_grad()
def test_cold_samples_are_greedy(option: dict) -> None:
    model = scrambled(prior(codes=6, **option), std=0.5)
    expected = greedy(model, 3)
    assert torch.equal(model.draw(3), expected) and len(expected.unique()) > 1
    model.temperature, model.top_k = 1.0, 0
    assert not torch.equal(model.draw(3), expected)


def test_temperature_and_top_k_cut_the_law() -> None:
    logits = torch.tensor([[2.0, 0.0, 1.0, -1.0]]).log_softmax(1)
    u = (torch.arange(4000) + 0.5) / 4000
    for temperature, top_k, kept in ((1.0, 0, range(4)), (0.5, 0, range(4)), (2.0, 2, (0, 2))):
        model = prior(temperature=temperature, top_k=top_k)
        weights = torch.zeros(4).index_copy(0, torch.tensor(list(kept)), torch.exp(logits[0, list(kept)] / temperature))
        shares = model.picked(logits.expand(4000, 4), u).bincount(minlength=4) / 4000
        torch.testing.assert_close(shares, weights / weights.sum(), rtol=0, atol=1e-3)


def test_impossible_codes_are_never_drawn() -> None:
    """Not even by the smallest and the largest number that torch.rand gives."""
    probabilities = torch.tensor([0.0, 0.3, 0.0, 0.7, 0.0]).double()
    u = torch.tensor([0.0, 0.3, 1 - 2**-24])
    assert inverted(probabilities.expand(3, 5), u).tolist() == [1, 3, 3]
    assert inverted(torch.full((1, 3), 1 / 3).double(), torch.tensor([1 - 2**-24])).tolist() == [2]


@torch.no_grad()
def test_an_image_is_the_same_in_any_batch() -> None:
    model = scrambled(prior(condition=Classes(3, 8)))
    alone, together = (draw(model.sample, 8, batch_size=size, seed=5) for size in (3, 8))
    assert torch.equal(alone, together)
    with per_image(5, 0, 8):
        assert len(model.draw(8).flatten(1).unique(dim=0)) == 8


# --- Classes.


def constant(n: int) -> tuple[Tensor, Tensor]:
    """Maps of 2x2 codes, all of them the class."""
    y = torch.randint(3, (n,))
    return y[:, None, None].expand(n, 2, 2).contiguous(), y


def test_classes_are_learned_counted_and_drawn() -> None:
    model = prior(side=2, condition=Classes(3, 8), dropout=0.2)
    assert isinstance(model, TakesClasses)
    learn(model, [constant(64) for _ in range(60)])
    model.eval()
    y = torch.arange(60) % 3
    assert (model.draw(60, y) == y[:, None, None]).float().mean() > 0.97
    assert (model.sample(60, y)[:, 0, 0, 0] == model.first_stage.level[y]).float().mean() > 0.9
    model.after_fit([(torch.zeros(10, 2, 2, dtype=torch.int64), torch.tensor([0] * 9 + [2]))])
    assert model.asks.bincount().tolist() == [900, 0, 100]
    drawn = model.draw(400)[:, 0, 0].bincount(minlength=4) / 400
    assert abs(drawn[0] - 0.9) < 0.06 and drawn[1] < 0.04


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_dropped_labels_are_not_told(share: float) -> None:
    model, ids = scrambled(prior(condition=Classes(3, 8), dropout=share)), torch.randint(4, (6, 4, 4))
    a, b = (model.loss(ids, torch.full((6,), y))["loss"].item() for y in (0, 2))
    assert (a == b) == (share == 1.0)


@torch.no_grad()
def test_guidance_leads_from_no_class_to_the_class_and_beyond() -> None:
    """0 and 1 are the two laws themselves; 3 is their log-linear continuation, place by place."""
    y, ids = torch.zeros(2, dtype=torch.int64), torch.randint(4, (2, 16))

    def model(scale: float) -> CodePrior:
        torch.manual_seed(1)
        return scrambled(prior(condition=Classes(3, 8), guidance=scale))

    def logits(scale: float) -> Tensor:
        guided, seen = model(scale), []
        guided.picked = lambda logits, u: (seen.append(logits), ids[:, len(seen) - 1])[1]
        assert torch.equal(guided.draw(2, y).flatten(1), ids)
        return torch.stack(seen, dim=1)

    assert [model(scale).nfe / 16 for scale in (0.0, 1.0, 3.0)] == [1, 1, 2]
    none, told, beyond = map(logits, (0.0, 1.0, 3.0))
    torch.testing.assert_close(beyond, none + 3 * (told - none), rtol=0, atol=1e-4)
    net = model(1.0).net
    torch.testing.assert_close(none, net(ids), rtol=0, atol=1e-5)
    torch.testing.assert_close(told, net(ids, y), rtol=0, atol=1e-5)
    assert (none - told).abs().max() > 0.1


def test_classes_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match="trained without classes"):
        prior().sample(2, torch.tensor([0, 1]))
    told = prior(condition=Classes(3, 8))
    with pytest.raises(ValueError, match="knows the classes 0 to 2"):
        told.sample(2, torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="the data has none: set condition=none"):
        told.loss(torch.zeros(2, 4, 4, dtype=torch.int64))


def test_the_order_of_words_is_learned() -> None:
    """Two words, of which the first names the left column of codes and the second the right one."""
    torch.manual_seed(0)
    words = torch.tensor([list(b"zero one "), list(b"one zero "), list(b"zero zero"), list(b"one one  ")]).byte()
    columns = torch.tensor([[0, 1], [1, 0], [0, 0], [1, 1]])
    model = prior(codes=2, side=2, lr=3e-3, condition=Text(9, 16, words=64, slots=4))
    which = [torch.randint(4, (64,)) for _ in range(150)]
    learn(model, [(columns[i][:, None].expand(-1, 2, -1).contiguous(), words[i]) for i in which])
    model.eval()
    drawn = model.draw(80, words.repeat(20, 1))
    assert (drawn == columns.repeat(20, 1)[:, None]).float().mean() > 0.97


@torch.no_grad()
def test_in_16_bits_keys_and_values_are_kept_as_one_call_has_them(monkeypatch) -> None:
    """Greedy codes have the highest logits of a call in 32 bits, but for rounding; the decoder stays in 32."""
    model = scrambled(prior(codes=6, condition=Classes(3, 8), guidance=2.0, top_k=1), std=0.4)
    y, seen = torch.arange(4) % 3, []
    monkeypatch.setattr(
        model.first_stage, "decode_codes", lambda ids: (seen.append((torch.is_autocast_enabled("cpu"), ids)), ids)[1]
    )
    with torch.autocast("cpu", torch.bfloat16):
        ids = model.sample(4, y).flatten(1)
    assert [on for on, _ in seen] == [False]
    logits = torch.lerp(model.net(ids), model.net(ids, y), 2.0)  # (4, 16, 6)
    lost = logits.amax(2) - logits.gather(2, ids[..., None])[..., 0]
    assert lost.max() < 0.05 * logits.std() and logits.std() > 0.3


# --- The first stage.


def test_the_first_stage_stays_frozen() -> None:
    model = prior(side=2, condition=Classes(3, 8))
    before = {name: p.clone() for name, p in model.first_stage.named_parameters()}
    model.train()
    assert model.net.training and not model.first_stage.training
    learn(model, [constant(8)] * 3)
    assert all(torch.equal(p, before[name]) for name, p in model.first_stage.named_parameters())
    assert not any(p.requires_grad for p in model.first_stage.parameters())


@pytest.mark.parametrize("flip", [False, True])
def test_training_images_are_encoded_once_and_others_when_seen(settings, flip: bool) -> None:
    model = runs.build(settings("model=code_prior", "width=8"))
    data = DataModule(digits, "digits", (1, 8, 8), batch_size=64, flip=flip)
    calls, codes = [], model.first_stage.codes
    model.first_stage.codes = lambda x: (calls.append(len(x)), codes(x))[1]
    seen, loss = [], model.loss
    model.loss = lambda x, y: (seen.append(x), loss(x, y))[1]
    Trainer(max_steps=30, limit_val_batches=0, accelerator="cpu", **QUIET).fit(model, data)
    n = len(data.split("train").x)
    assert sum(calls) == n * (2 if flip else 1)
    assert {(x.dtype, x.shape) for x in seen} == {(torch.int64, (64, 4, 4))}
    x, _ = data.on_after_batch_transfer(next(iter(data.val_dataloader())), 0)
    assert model.loss(x, None)["loss"].isfinite()
    assert sum(calls) == n * (2 if flip else 1) + 64


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": 0.0}, "temperature=0.0: give a number above 0, or top_k=1 for greedy"),
        ({"temperature": math.nan}, "give a number above 0"),
        ({"temperature": math.inf}, "give a number above 0"),
        ({"top_k": 5}, "top_k=5: give 1 to 4"),
        ({"top_k": -1}, "top_k=-1"),
        ({"codes": 0}, "first_stage has no codes: take a run of autoencoder_vq"),
    ],
)
def test_impossible_settings_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        prior(**options)


def test_weights_that_are_no_numbers_draw_nothing() -> None:
    model = prior()
    nn.init.constant_(model.net.begin, math.nan)
    with pytest.raises(ValueError, match="logits are NaN or infinite, so no codes can be drawn: train with"):
        model.sample(2)


def test_other_first_stages_are_refused(settings) -> None:
    with pytest.raises(ValueError, match="the first stage's \\(1, 4, 4\\): make them one"):
        CodePrior((3, 4, 4), partial(torch.optim.Adam, lr=1.0), Levels(4), partial(Transformer, width=8))
    kl = settings("model=latent")["model"]["first_stage"]["run_dir"]
    with pytest.raises(Exception, match="first_stage has no codes"):
        runs.build(settings("model=code_prior", f"first_stage='{kl}'"))


def test_what_tables_say_of_it() -> None:
    model = prior(condition=Classes(3, 8), temperature=0.9, top_k=2, guidance=1.5)
    assert (model.family, model.nfe, prior(side=2).nfe) == ("VQ prior", 32, 4)
    drawn = "decoder of 4x4 codes drawn one by one from a causal transformer"
    assert model.sampling == f"{drawn}, temperature 0.9, of the 2 likeliest, guidance 1.5"
    assert prior().sampling == drawn and not isinstance(model, HasLikelihood)
