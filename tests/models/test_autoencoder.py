"""The first stage: what its losses are made of, when its critic plays, what its latents and codes give back."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from genzoo import runs
from genzoo.data.digits import digits
from genzoo.generator import HasEncode, HasLikelihood
from genzoo.models.autoencoder import Adversary, Autoencoder, adaptive_weight
from genzoo.models.gan import hinge
from genzoo.nets.autoencoder import Decoder, Encoder, Gaussian
from genzoo.nets.patch import Patches
from genzoo.nets.quantise import VectorQuantiser

SHAPE, FACTOR = (1, 8, 8), 2
QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


def kl(weight: float = 1e-4) -> Gaussian:
    return Gaussian(3, weight)


def vq(**options: float) -> VectorQuantiser:
    return VectorQuantiser(3, codes=64, **options)


def autoencoder(bottleneck: nn.Module, lr: float = 2e-3, width: int = 8, **options) -> Autoencoder:
    nets = {"image_shape": SHAPE, "factor": FACTOR, "width": width}
    optimizer = partial(torch.optim.Adam, lr=lr)
    return Autoencoder(SHAPE, optimizer, partial(Encoder, **nets), partial(Decoder, **nets), bottleneck, **options)


def adversary(start: int = 0, **options) -> Adversary:
    return Adversary(Patches(SHAPE, width=8), hinge, start, **options)


both = pytest.mark.parametrize("bottleneck", [kl, vq], ids=["kl", "vq"])


def images(n: int = 4) -> Tensor:
    return torch.rand(n, *SHAPE) * 2 - 1


def fit(model: Autoencoder, batches: list[Tensor]) -> None:
    loader = DataLoader([(x, torch.zeros(len(x))) for x in batches], batch_size=None)
    Trainer(max_epochs=1, accelerator="cpu", **QUIET).fit(model, loader)


# --- The loss.


@both
def test_the_loss_is_the_sum_of_its_terms(bottleneck) -> None:
    model, x = autoencoder(bottleneck(), perceptual=lambda a, b: 0.3 * F.mse_loss(a, b)).eval(), images()
    torch.manual_seed(1)
    terms = model.loss(x)
    torch.manual_seed(1)
    squeezed = model.bottleneck(model.encoder(x))
    x_hat = model.decoder(squeezed.z)
    expected = (x_hat - x).abs().mean() + 0.3 * (x_hat - x).square().mean() + squeezed.penalty
    torch.testing.assert_close(terms["loss"], expected)
    torch.testing.assert_close(terms["pixel"], (x_hat - x).abs().mean().detach())
    assert terms.keys() == {"loss", "pixel", "perceptual", *squeezed.terms}
    assert not any(value.requires_grad for name, value in terms.items() if name != "loss")


def test_the_encoder_learns_from_the_decoder_through_codes() -> None:
    """Without commitment, the gradient of the encoder's output is that of the decoder's input, bit for bit."""
    model, x = autoencoder(vq(commitment=0.0, dead=0.0)).eval(), images()
    h = model.encoder(x).detach().requires_grad_()
    F.l1_loss(model.decoder(model.bottleneck(h).z), x).backward()
    z = model.bottleneck.nearest(model.encode(x)).requires_grad_()
    F.l1_loss(model.decoder(z), x).backward()
    assert torch.equal(h.grad, z.grad)
    assert z.grad.any()


# --- The critic.


def test_the_adaptive_weight_makes_both_pulls_alike() -> None:
    last = nn.Linear(3, 2, bias=False)
    out = last(torch.randn(5, 3))
    loss, adversarial = out.square().mean(), -7 * out.sum()
    found = adaptive_weight(loss, adversarial, last.weight)
    ours, theirs = (torch.autograd.grad(v, last.weight, retain_graph=True)[0].norm() for v in (loss, adversarial))
    assert found.item() == pytest.approx((ours / (theirs + 1e-4)).item(), rel=1e-6)
    assert (found * theirs).item() == pytest.approx(ours.item(), rel=1e-3)
    assert not found.requires_grad
    with torch.no_grad():
        assert adaptive_weight(loss, adversarial, last.weight) == 0
    assert adaptive_weight(1e9 * loss, 0 * out.sum(), last.weight) == 1e4


def test_the_critic_is_silent_before_its_start() -> None:
    model = autoencoder(kl(), adversary=adversary(start=100))
    model.images_seen = 99
    terms = model.loss(images())
    assert "critic_loss" not in terms
    terms["loss"].backward()
    assert all(p.grad is None for p in model.adversary.parameters())
    model.images_seen = 100
    terms = model.loss(images())
    assert {"critic_loss", "decoder_loss"} <= terms.keys()
    terms["loss"].backward()
    assert all(p.grad is not None for p in model.adversary.parameters())


@both
def test_a_step_moves_each_player_alone(bottleneck) -> None:
    model = autoencoder(bottleneck(), adversary=adversary(start=8))
    moved, frozen, descend = [], [], model.descend

    def spy(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        frozen.append(not any(p.requires_grad for p in model.adversary.parameters()))
        descend(loss, optimizer)
        moved.append({name.split(".")[0] for name, p in model.named_parameters() if not torch.equal(p, before[name])})
        model.images_seen += 4 * (optimizer.optimizer is model.optimizers()[0].optimizer)

    model.descend = spy
    step = model.training_step
    outputs = []
    model.training_step = lambda batch, batch_idx: outputs.append(step(batch, batch_idx)) or outputs[-1]
    fit(model, [images() for _ in range(4)])
    ours = {"encoder", "decoder"}
    assert moved == [ours, ours, ours, {"adversary"}, ours, {"adversary"}]
    assert frozen == [False, False, True, False, True, False]  # the decoder's step spares the critic's gradients
    assert ["critic_loss" in terms for terms in outputs] == [False, False, True, True]
    assert not any(value.requires_grad for terms in outputs for value in terms.values())
    assert all(p.requires_grad for p in model.parameters())


def test_the_decoders_step_is_that_of_its_own_loss() -> None:
    """SGD by hand, the critic's gradient weighed against the rest's at the decoder's last layer."""
    model = autoencoder(kl(), adversary=adversary(weight=0.7), clip=math.inf)
    model.optimizer = partial(torch.optim.SGD, lr=0.1)
    hand = autoencoder(kl(), adversary=adversary(weight=0.7))
    hand.load_state_dict(model.state_dict())
    x, step = images(), model.training_step
    model.training_step = lambda batch, batch_idx: torch.manual_seed(5) and step(batch, batch_idx)
    fit(model, [x])
    torch.manual_seed(5)
    squeezed = hand.bottleneck(hand.encoder(x))
    x_hat = hand.decoder(squeezed.z)
    rest, fooled = F.l1_loss(x_hat, x) + squeezed.penalty, -hand.adversary.critic(x_hat).mean()
    last = hand.decoder[-1].weight
    norms = [torch.autograd.grad(v, last, retain_graph=True)[0].norm() for v in (rest, fooled)]
    loss = rest + 0.7 * norms[0] / (norms[1] + 1e-4) * fooled
    critic = hinge(hand.adversary.critic(x), hand.adversary.critic(x_hat.detach()))[0]
    ours = [*hand.encoder.parameters(), *hand.decoder.parameters()]
    for value, parameters in [(loss, ours), (critic, list(hand.adversary.parameters()))]:
        for p, g in zip(parameters, torch.autograd.grad(value, parameters, retain_graph=True)):
            p.data -= 0.1 * g
    for a, b in zip(model.parameters(), hand.parameters()):
        torch.testing.assert_close(a, b)


@both
def test_only_a_critic_asks_for_two_optimisers_and_32_bits(bottleneck) -> None:
    alone, opposed = autoencoder(bottleneck()), autoencoder(bottleneck(), adversary=adversary())
    assert alone.automatic_optimization and not alone.full_precision
    assert not opposed.automatic_optimization and opposed.full_precision
    assert isinstance(alone.configure_optimizers(), torch.optim.Optimizer)
    players = [{p for g in o.param_groups for p in g["params"]} for o in opposed.configure_optimizers()]
    assert players[0].isdisjoint(players[1]) and players[0] | players[1] == set(opposed.parameters())


def test_critic_and_classifier_are_chosen_by_name(settings) -> None:
    """As conf/adversary and conf/perceptual have them; the classifier's weights are none of the model's."""
    parts = ["+adversary@model.adversary=patch", "+perceptual@model.perceptual=classifier", "model.adversary.start=0"]
    for name in ("autoencoder_kl", "autoencoder_vq"):
        model = runs.build(settings(f"model={name}", "width=8", *parts))
        terms = model.train().loss(images())
        assert {"pixel", "perceptual", "critic_loss", "decoder_loss"} <= terms.keys()
        terms["loss"].backward()
        assert all(p.grad is not None for p in model.parameters())
        assert {key.split(".")[0] for key in model.state_dict()} <= {"encoder", "decoder", "bottleneck", "adversary"}


@both
def test_sixteen_bits(bottleneck) -> None:
    """A GPU's default for families that bear it."""
    model, x = autoencoder(bottleneck(), pixel=F.mse_loss).train(), images()
    with torch.autocast("cpu", torch.bfloat16):
        terms = model.loss(x)
    terms["loss"].backward()
    assert terms["loss"].dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in model.parameters())


# --- Latents, codes, samples.


@both
def test_what_it_offers(bottleneck) -> None:
    model, x = autoencoder(bottleneck()).eval(), images()
    assert model.latent_shape == (3, 4, 4)
    assert isinstance(model, HasEncode) and not isinstance(model, HasLikelihood)
    z = model.encode(x)
    assert z.shape == (4, *model.latent_shape) and torch.equal(z, model.encode(x))
    assert torch.equal(model.reconstruct(x), model.decode(z))
    torch.testing.assert_close(model.decode(z), model.decoder(model.bottleneck.nearest(z)).clamp(-1, 1))
    assert model.family == {"kl": "KL autoencoder", "vq": "VQ autoencoder"}[bottleneck.__name__]
    with pytest.raises(ValueError, match="was trained without classes"):
        model.sample(2, torch.zeros(2, dtype=torch.long))


def test_codes_are_the_latents() -> None:
    model, x = autoencoder(vq()).train(), images()
    model.loss(x)
    model.eval()
    ids = model.codes(x)
    assert model.codebook_size == 64 and ids.shape == (4, 4, 4) and ids.dtype == torch.int64
    assert torch.equal(model.decode_codes(ids), model.reconstruct(x))
    noisy = model.encode(x) + 1e-4 * torch.randn(4, 3, 4, 4)
    assert torch.equal(model.decode(noisy), model.reconstruct(x))  # a prior of z need not meet the codes


@pytest.mark.parametrize("ids", [torch.full((1, 4, 4), 64), torch.full((1, 4, 4), -1), torch.zeros(1, 4, 4)])
def test_other_numbers_are_no_codes(ids: Tensor) -> None:
    with pytest.raises(ValueError, match="codes are int64 from 0 to 63"):
        autoencoder(vq()).decode_codes(ids)


def test_continuous_latents_have_no_codes() -> None:
    model = autoencoder(kl())
    assert model.codebook_size == 0
    for call in (lambda: model.codes(images()), lambda: model.decode_codes(torch.zeros(1, 4, 4, dtype=torch.int64))):
        with pytest.raises(ValueError, match="continuous: train model=autoencoder_vq"):
            call()


# --- It learns.


def psnr(model: Autoencoder, x: Tensor) -> float:
    return -10 * math.log10(F.mse_loss(model.eval().reconstruct(x), x).item() / 4)


@both
def test_a_short_training_reconstructs_held_out_digits(bottleneck) -> None:
    model = autoencoder(bottleneck(), lr=5e-3, pixel=F.mse_loss)
    train, test = (split.x / 127.5 - 1 for split in (digits().train, digits().test))
    model.train().loss(train[:64])  # the codes of an untrained net are its own rows
    assert psnr(model, test) < 12
    optimizer = model.train().configure_optimizers()
    for _ in range(120):
        loss = model.loss(train[torch.randint(len(train), (64,))])
        optimizer.zero_grad()
        loss["loss"].backward()
        optimizer.step()
    assert psnr(model, test) > {"kl": 18, "vq": 16}[bottleneck.__name__]
    if model.codebook_size:
        assert loss["perplexity"] > 20
