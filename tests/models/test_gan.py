"""The GAN's losses and penalties against hand formulas, and who moves when in a step."""

import math
from functools import partial

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from genzoo.models.gan import (
    GAN,
    brighten,
    gradient_penalty,
    hinge,
    non_saturating,
    normalise_spectrum,
    relativistic,
    squared_gradient,
    translate,
    wasserstein,
)
from genzoo.nets import conv

SHAPE = (1, 8, 8)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


def fit(model: GAN, batches: list[Tensor]) -> None:
    loader = DataLoader([(x, torch.zeros(len(x))) for x in batches], batch_size=None)
    Trainer(max_epochs=1, accelerator="cpu", **QUIET).fit(model, loader)


def gan(adversarial=non_saturating, **options) -> GAN:
    return GAN(
        SHAPE,
        partial(torch.optim.Adam, lr=1e-3),
        generator=partial(conv.Decoder, SHAPE, width=8),
        critic=partial(conv.Encoder, SHAPE, width=8, norm=conv.identity),
        adversarial=adversarial,
        latent_dim=4,
        **options,
    )


# --- Losses and penalties.

REAL, FAKE = [2.0, -0.5, 0.3], [-1.5, 0.7, 1.2]
PAIRS = list(zip(REAL, FAKE))
BY_HAND = {
    non_saturating: (sum(softplus(-r) + softplus(f) for r, f in PAIRS), sum(softplus(-f) for f in FAKE)),
    hinge: (sum(max(0, 1 - r) + max(0, 1 + f) for r, f in PAIRS), -sum(FAKE)),
    wasserstein: (sum(FAKE) - sum(REAL), -sum(FAKE)),
    relativistic: (sum(softplus(f - r) for r, f in PAIRS), sum(softplus(r - f) for r, f in PAIRS)),
}


@pytest.mark.parametrize("loss", BY_HAND, ids=lambda f: f.__name__)
def test_losses(loss) -> None:
    critic, generator = loss(torch.tensor(REAL)[:, None], torch.tensor(FAKE)[:, None])
    expected = [total / 3 for total in BY_HAND[loss]]
    assert [critic.item(), generator.item()] == pytest.approx(expected, rel=1e-6)


def linear_critic() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 1)).double()


def test_r1_of_a_linear_critic_is_its_squared_weight() -> None:
    critic = linear_critic()
    w = critic[1].weight
    r1 = squared_gradient(critic, torch.randn(5, *SHAPE, dtype=torch.float64))
    torch.testing.assert_close(r1, w.square().sum(), rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(r1, w)
    torch.testing.assert_close(gradient, 2 * w.detach(), rtol=1e-12, atol=0)


def test_gradient_penalty_of_a_linear_critic() -> None:
    critic = linear_critic().float()
    w = critic[1].weight
    real, fake = torch.randn(2, 5, *SHAPE)
    penalty = gradient_penalty(critic, real, fake)
    torch.testing.assert_close(penalty, (w.norm() - 1) ** 2, rtol=1e-5, atol=0)
    (gradient,) = torch.autograd.grad(penalty, w)
    torch.testing.assert_close(gradient, (2 * (w.norm() - 1) * w / w.norm()).detach(), rtol=1e-5, atol=1e-7)


def test_penalties_of_a_quadratic_critic_know_where_they_are() -> None:
    """D(x) = |x|^2 / 2 has the gradient x."""
    critic = lambda x: 0.5 * x.flatten(1).square().sum(1, keepdim=True)
    x = torch.randn(6, *SHAPE)
    torch.testing.assert_close(squared_gradient(critic, x), x.flatten(1).square().sum(1).mean())
    unit = x / x.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert gradient_penalty(critic, unit, unit) < 1e-10
    # between 2 and 4 times a unit vector the gradient is uniform in [2, 4]: E(u - 1)^2 = 13 / 3
    unit = unit.repeat(2000, 1, 1, 1)
    assert gradient_penalty(critic, 2 * unit, 4 * unit).item() == pytest.approx(13 / 3, rel=0.03)


def test_critic_loss_adds_its_penalties() -> None:
    real, fake = torch.rand(2, 6, *SHAPE)
    plain = gan().critic_loss(real, fake, torch.zeros(len(real), 0))
    assert torch.equal(plain["loss"].detach(), plain["critic_loss"])
    model = gan(r1=2.0, r2=3.0, penalty=10.0)
    model.critic = linear_critic().float()
    square = model.critic[1].weight.square().sum()
    terms = model.critic_loss(real, fake, torch.zeros(len(real), 0))
    expected = terms["critic_loss"] + (0.5 * 2 + 0.5 * 3) * square + 10 * (square.sqrt() - 1) ** 2
    torch.testing.assert_close(terms["loss"], expected)


def test_projection_discriminator() -> None:
    """Of a linear critic: psi(x) + <V_y, x> (Miyato & Koyama 2018, equation 3)."""
    model = gan(classes=3)
    model.critic = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(SHAPE), 4))
    x, y = torch.randn(5, *SHAPE), torch.tensor([0, 1, 2, 2, 1])
    w, b = model.critic[1].weight, model.critic[1].bias
    expected = [x[i].flatten() @ (w[0] + w[1 + y[i]]) + b[0] + b[1 + y[i]] for i in range(5)]
    told = torch.nn.functional.one_hot(y, 3).float()
    torch.testing.assert_close(model.judge(x, told)[:, 0], torch.stack(expected))


def test_the_generator_is_told_the_class_beside_z() -> None:
    model = gan(classes=3).eval()
    seen = []
    model.generator.forward = lambda z: seen.append(z) or torch.zeros(len(z), *SHAPE)
    model.sample(3, torch.tensor([2, 0, 1]))
    assert torch.equal(seen[0][:, 4:], torch.eye(3)[[2, 0, 1]])
    model.shares.copy_(torch.tensor([0.0, 0.7, 0.3]))
    model.sample(4000)
    assert seen[1][:, 4:].mean(0).tolist() == pytest.approx([0, 0.7, 0.3], abs=0.03)


def test_validation_without_gradients_has_penalties_too() -> None:
    model = gan(relativistic, r1=1.0, r2=1.0, penalty=1.0).eval()
    with torch.no_grad():
        terms = model.loss(torch.rand(4, *SHAPE))
    assert terms["loss"].isfinite() and terms["loss"] > terms["critic_loss"] + terms["generator_loss"]


# --- One step.


def test_a_step_moves_each_player_alone() -> None:
    model = gan(relativistic, r1=1.0, r2=1.0, augment=[translate, brighten])
    moved, frozen, descend = [], [], model.descend

    def spy(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        frozen.append(not any(p.requires_grad for p in model.critic.parameters()))
        descend(loss, optimizer)
        moved.append({name.split(".")[0] for name, p in model.named_parameters() if not torch.equal(p, before[name])})

    model.descend = spy
    batches = [torch.rand(4, *SHAPE) for _ in range(3)]
    fit(model, batches)
    assert moved == [{"critic"}, {"generator"}] * 3
    assert frozen == [False, True] * 3  # the generator's step spares gradients of the critic's weights
    assert all(p.requires_grad for p in model.parameters())


def test_steps_go_downhill() -> None:
    """SGD by hand on the losses as they stand gives the weights that the training step gives."""
    model = gan(non_saturating, clip=math.inf)
    model.optimizer = partial(torch.optim.SGD, lr=0.1)
    batches = torch.rand(3, 4, *SHAPE)
    by_hand = gan(non_saturating)
    by_hand.load_state_dict(model.state_dict())
    step = model.training_step
    model.training_step = lambda batch, batch_idx: torch.manual_seed(batch_idx) and step(batch, batch_idx)
    fit(model, list(batches))
    for i, x in enumerate(batches):
        torch.manual_seed(i)
        fake = by_hand.generate(torch.zeros(4, 0))
        critic, _ = non_saturating(by_hand.critic(x), by_hand.critic(fake.detach()))
        sgd(by_hand.critic, critic)
        _, generator = non_saturating(by_hand.critic(x), by_hand.critic(fake))
        sgd(by_hand.generator, generator)
    for a, b in zip(model.parameters(), by_hand.parameters()):
        torch.testing.assert_close(a, b)


def sgd(net: nn.Module, loss: Tensor) -> None:
    parameters = list(net.parameters())
    with torch.no_grad():
        for p, g in zip(parameters, torch.autograd.grad(loss, parameters)):
            p -= 0.1 * g


def test_spectral_normalisation() -> None:
    model = gan(spectral=True).train()
    for _ in range(60):  # power iterations, one a pass
        model.critic(torch.randn(2, *SHAPE))
    model.eval()
    layers = [m for m in model.critic.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) > 4
    for layer in layers:
        largest = torch.linalg.svdvals(layer.weight.detach().flatten(1))[0]
        assert largest.item() == pytest.approx(1, abs=0.03)
    assert not any("parametrizations" in name for name, _ in model.generator.named_parameters())


def test_spectral_normalisation_leaves_other_layers() -> None:
    layer = nn.Sequential(nn.GroupNorm(1, 4), nn.Linear(4, 2)).apply(normalise_spectrum)
    assert [name for name, _ in layer.named_parameters()][:2] == ["0.weight", "0.bias"]
    assert "parametrizations" in [name for name, _ in layer.named_parameters()][3]


# --- Augmentation.


def test_translation_by_nothing_is_the_identity() -> None:
    x = torch.randn(5, 3, 6, 9)
    assert torch.equal(translate(x, share=0.0), x)


def test_translation_moves_whole_images(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.rand(3, 2, 6, 8)
    shifts = iter([torch.tensor([2, 0, -1]).view(3, 1, 1), torch.tensor([-3, 1, 0]).view(3, 1, 1)])
    monkeypatch.setattr(torch, "randint", lambda *_: next(shifts))
    moved = translate(x, 0.5)
    for i, (dy, dx) in enumerate([(2, -3), (0, 1), (-1, 0)]):
        for row in range(6):
            for column in range(8):
                inside = 0 <= row + dy < 6 and 0 <= column + dx < 8
                expected = x[i, :, row + dy, column + dx] if inside else torch.full((2,), -1.0)
                assert torch.equal(moved[i, :, row, column], expected)


def test_translation_has_gradients_and_its_range() -> None:
    x = torch.rand(500, 1, 8, 16, requires_grad=True)
    moved = translate(x, 0.25)
    moved.sum().backward()
    assert set(x.grad.unique().tolist()) == {0.0, 1.0}
    assert x.grad.sum() == (moved != -1).sum()
    kept = (moved != -1)[:, 0]
    rows, columns = kept.any(2).sum(1), kept.any(1).sum(1)
    assert (rows.min(), columns.min(), rows.max(), columns.max()) == (6, 12, 8, 16)


def test_brightness_moves_an_image_as_one() -> None:
    x = torch.randn(4000, 1, 3, 3)
    change = brighten(x, 0.5) - x
    assert (change.flatten(1).std(1) < 1e-6).all()
    shift = change[:, 0, 0, 0]
    assert shift.abs().max() <= 0.25 + 1e-6
    assert shift.min() < -0.24 and shift.max() > 0.24


def test_the_critic_sees_augmented_images_of_both_kinds() -> None:
    seen = []
    model = gan(augment=[lambda x: seen.append(len(x)) or x])
    model.loss(torch.rand(3, *SHAPE))
    assert seen == [3, 3, 3, 3]


def test_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="GAN was trained without classes"):
        gan().sample(2, torch.zeros(2, dtype=torch.long))
