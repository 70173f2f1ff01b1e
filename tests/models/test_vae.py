"""The VAE's bounds against log p(x) of a linear-Gaussian model, where everything is known."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from genzoo.generator import HasLikelihoods, bits_per_dim
from genzoo.models.vae import VAE, kl_to_standard_normal, reparameterise
from genzoo.nets.heads import Bernoulli, DiscretisedLogistics, Gaussian

SHAPE, D, LATENT, SIGMA = (1, 2, 3), 6, 3, 0.4


class Posterior(nn.Module):
    """x -> (mu, log_var) of N(S W^T (x - b) / sigma^2, S), S = (I + W^T W / sigma^2)^-1; `wider` spoils it."""

    def __init__(self, w: Tensor, b: Tensor, wider: float = 1.0) -> None:
        super().__init__()
        self.w, self.b = w, b
        self.variance = 1 / (1 + w.square().sum(0) / SIGMA**2)  # W has orthogonal columns: S is diagonal
        self.wider = wider

    def forward(self, x: Tensor) -> Tensor:
        mu = self.variance * ((x.flatten(1) - self.b) @ self.w) / SIGMA**2
        return torch.cat([mu, torch.log(self.wider * self.variance).expand_as(mu)], dim=1)


class Linear(nn.Module):
    def __init__(self, w: Tensor, b: Tensor) -> None:
        super().__init__()
        self.w, self.b = w, b

    def forward(self, z: Tensor) -> Tensor:
        return (z @ self.w.T + self.b).view(-1, *SHAPE)


class Identity(nn.Module):
    """(n, d) codes are images (d, 1, 1); as an encoder, with a variance near 0."""

    def __init__(self, log_var: float | None = None) -> None:
        super().__init__()
        self.log_var = log_var

    def forward(self, x: Tensor) -> Tensor:
        if self.log_var is None:
            return x[:, :, None, None]
        return torch.cat([x.flatten(1), torch.full_like(x.flatten(1), self.log_var)], dim=1)


@pytest.fixture
def weights() -> tuple[Tensor, Tensor]:
    q, _ = torch.linalg.qr(torch.randn(D, LATENT, dtype=torch.float64))
    return q * torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64), torch.randn(D, dtype=torch.float64)


def linear_vae(weights: tuple[Tensor, Tensor], wider: float = 1.0, **options: float) -> VAE:
    return VAE(
        SHAPE,
        torch.optim.SGD,
        encoder=lambda out_features, image_shape: Posterior(*weights, wider),
        decoder=lambda in_features, out_channels: Linear(*weights),
        head=Gaussian(SIGMA),
        latent_dim=LATENT,
        **options,
    ).double()


class Shifted(nn.Module):
    """A net of images, or of z, without their last `classes` planes, or numbers, which say how far to shift them."""

    def __init__(self, net: nn.Module, shifts: Tensor, encodes: bool) -> None:
        super().__init__()
        self.net, self.shifts, self.encodes = net, shifts, encodes

    def forward(self, x: Tensor) -> Tensor:
        inner, told = x[:, : -len(self.shifts)], x[:, -len(self.shifts) :]
        if self.encodes:
            return self.net(inner - (told[:, :, 0, 0] @ self.shifts).view(-1, *SHAPE))
        return self.net(inner) + (told @ self.shifts).view(-1, *SHAPE)


def test_evidence_of_classes_is_that_of_their_mixture(weights: tuple[Tensor, Tensor]) -> None:
    """p(x | y) = N(b + shift_y, W W^T + sigma^2 I), known in closed form; so is p(x)."""
    shifts, shares = torch.randn(2, D, dtype=torch.float64), torch.tensor([0.25, 0.75], dtype=torch.float64)
    model = VAE(
        SHAPE,
        torch.optim.SGD,
        encoder=lambda out_features, image_shape: Shifted(Posterior(*weights, 1.0), shifts, encodes=True),
        decoder=lambda in_features, out_channels: Shifted(Linear(*weights), shifts, encodes=False),
        head=Gaussian(SIGMA),
        latent_dim=LATENT,
        classes=2,
    ).double()
    model.shares.copy_(shares)
    x = torch.randn(6, *SHAPE, dtype=torch.float64)
    given = evidence(weights)
    expected = torch.stack([given.log_prob(x.flatten(1) - shift) for shift in shifts]) + shares.log()[:, None]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("genzoo.models.vae.dequantise", lambda x: x)
        torch.testing.assert_close(model.log_prob(x), expected.logsumexp(0), rtol=1e-9, atol=1e-9)
        loss = model.loss(x, torch.tensor([0, 1] * 3))
    assert loss["loss"].isfinite()
    with pytest.raises(ValueError, match=r"no classes: set condition=none"):
        model.loss(x)


def evidence(weights: tuple[Tensor, Tensor]) -> MultivariateNormal:
    """p(x) = N(b, W W^T + sigma^2 I)."""
    w, b = weights
    sigma = Gaussian(SIGMA).double().log_sigma.exp()  # as the head keeps it, rounded to float32
    return MultivariateNormal(b, w @ w.T + sigma**2 * torch.eye(D, dtype=torch.float64))


@pytest.fixture(autouse=True)
def rounded_sigma(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head's sigma went through float32; the exact posterior must be that of the same number."""
    monkeypatch.setattr(f"{__name__}.SIGMA", Gaussian(SIGMA).double().log_sigma.exp().item())


@pytest.fixture
def continuous(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data that are no 8-bit levels, whose density is asked for where they are."""
    monkeypatch.setattr("genzoo.models.vae.dequantise", lambda x: x)


@pytest.mark.usefixtures("continuous")
def test_log_prob_is_the_evidence_at_any_z(weights) -> None:
    x = evidence(weights).sample((50,))
    log_p = evidence(weights).log_prob(x)
    model = linear_vae(weights)
    for _ in range(3):  # another z each time
        assert (model.log_prob(x.view(-1, *SHAPE)) - log_p).abs().max() < 1e-10
    model.particles = 5
    assert (model.log_prob(x.view(-1, *SHAPE)) - log_p).abs().max() < 1e-10


def test_elbo_is_the_evidence(weights, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean over the sigma points mu ± sqrt(d) sigma e_i, exact for the quadratic that log p(x | z) is in z."""
    x = evidence(weights).sample((7,))
    model = linear_vae(weights)
    terms = []
    for noise in math.sqrt(LATENT) * torch.cat([torch.eye(LATENT), -torch.eye(LATENT)]).double():
        monkeypatch.setattr(torch, "randn_like", lambda mu, noise=noise: noise.expand_as(mu))
        terms.append(model.loss(x.view(-1, *SHAPE)))
    elbo = -D * torch.stack([t["loss"] for t in terms]).mean()
    log_p = evidence(weights).log_prob(x).mean()
    assert abs(elbo - log_p) < 1e-10
    bits = torch.stack([t["bits_per_dim"] for t in terms]).mean()
    assert abs(bits - (-log_p / (D * math.log(2)) + math.log2(127.5))) < 1e-10
    parts = torch.stack([t["reconstruction"] + t["kl"] for t in terms]).mean()
    assert abs(-D * parts - log_p) < 1e-10


@pytest.mark.usefixtures("continuous")
def test_another_posterior_is_a_lower_bound_that_particles_tighten(weights) -> None:
    x = evidence(weights).sample((400,))
    log_p, images = evidence(weights).log_prob(x).mean(), x.view(-1, *SHAPE)
    bounds = [linear_vae(weights, wider=3.0, particles=k).log_prob(images).mean() for k in (1, 5, 50)]
    assert bounds[0] < bounds[1] < bounds[2] < log_p + 0.02
    # ELBO = log p - KL(q || p(z | x)), here the same for all x: 3 dimensions of (w - 1 - log w) / 2
    gap = LATENT * 0.5 * (3.0 - 1 - math.log(3.0))
    assert float(log_p - bounds[0]) == pytest.approx(gap, abs=0.3)
    assert float(log_p - bounds[2]) == pytest.approx(0, abs=0.1)


@pytest.mark.usefixtures("continuous")
def test_many_particles_give_the_evidence(weights) -> None:
    x = evidence(weights).sample((10,))
    log_p, model = evidence(weights).log_prob(x), linear_vae(weights, wider=3.0)
    bound = model.importance_bound(x.view(-1, *SHAPE), 3000)
    assert (bound - log_p).abs().max() < 0.1
    assert (model.importance_bound(x.view(-1, *SHAPE), 1) - log_p).abs().max() > 0.5


def test_likelihoods_name_their_bounds(weights) -> None:
    x = evidence(weights).sample((5,)).view(-1, *SHAPE)
    model = linear_vae(weights, wider=3.0, particles=7)
    assert isinstance(model, HasLikelihoods)
    assert [way[:2] for way in model.likelihoods()] == [("lower bound", "ELBO"), ("lower bound", "IWAE-7")]
    for way, particles in zip(model.likelihoods(), (1, 7)):
        torch.manual_seed(4)
        value = way.log_prob(x)
        torch.manual_seed(4)
        assert torch.equal(value, model.importance_bound(x, particles))
    model.particles = 1
    assert [way.method for way in model.likelihoods()] == ["ELBO"]


class Constant(nn.Module):
    """A decoder that says one thing, or an encoder that says N(0, I)."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return self.value.expand(len(x), *self.value.shape)


def blind_vae(head: nn.Module, out: Tensor) -> VAE:
    """p(x | z) is the head's distribution of `out` whatever z."""
    nets = {"encoder": lambda out_features, image_shape: Constant(torch.zeros(2)), "decoder": lambda **_: Constant(out)}
    return VAE(SHAPE, torch.optim.SGD, head=head, latent_dim=1, particles=3, **nets)


def test_no_gaussian_gains_by_the_levels_being_discrete() -> None:
    """Of a constant image, known to the head: the best sigma is the bin's own deviation, at log2(2 pi e / 12) / 2."""
    x = torch.full((4000, *SHAPE), 51 / 127.5 - 1)
    for ratio in (0.03, 0.3, 1.0, 3.0, 30.0):
        model = blind_vae(Gaussian(ratio / 127.5 / math.sqrt(12)), x[0])
        bits = bits_per_dim(model.log_prob(x), D)
        expected = math.log2(ratio * math.sqrt(2 * math.pi * math.e / 12)) + (ratio**-2 - 1) / (2 * math.log(2))
        assert expected > 0.25
        assert bits.mean().item() == pytest.approx(expected, abs=4 * bits.std().item() / math.sqrt(4000), rel=1e-3)


@pytest.mark.parametrize("head", [DiscretisedLogistics(2), Bernoulli()], ids=["logistics", "bernoulli"])
def test_discrete_heads_see_the_same_level_anywhere_in_its_bin(head: nn.Module) -> None:
    out = torch.randn(head.parameters_of(1), 2, 3, dtype=torch.float64)
    x = (torch.arange(256).double() / 127.5 - 1).view(-1, 1, 1, 1).expand(-1, *SHAPE)
    expected = head.log_prob(x, out.expand(256, -1, -1, -1))
    for _ in range(3):
        torch.testing.assert_close(blind_vae(head, out).double().log_prob(x), expected, rtol=1e-9, atol=1e-9)


def test_kl_is_that_of_torch_distributions() -> None:
    mu, log_var = torch.randn(2, 9, 5, dtype=torch.float64)
    q = Independent(Normal(mu, (0.5 * log_var).exp()), 1)
    p = Independent(Normal(torch.zeros_like(mu), torch.ones_like(mu)), 1)
    torch.testing.assert_close(kl_to_standard_normal(mu, log_var), kl_divergence(q, p), rtol=1e-12, atol=1e-12)


def test_reparameterisation_carries_gradients() -> None:
    mu, log_var = torch.zeros(20_000), torch.full((20_000,), math.log(4.0))
    mu.requires_grad_(), log_var.requires_grad_()
    z = reparameterise(mu, log_var)
    assert z.detach().std() == pytest.approx(2.0, rel=0.03)
    z.square().mean().backward()
    assert mu.grad.sum() == pytest.approx(0, abs=0.1)  # d E[z^2] / d mu = 2 mu
    assert log_var.grad.sum() == pytest.approx(4.0, rel=0.05)  # d E[z^2] / d log_var = sigma^2


def test_beta_and_its_warmup(weights) -> None:
    x = evidence(weights).sample((4,)).view(-1, *SHAPE)
    model = linear_vae(weights, beta=3.0, warmup=1000)
    for seen, beta in ((0, 0.0), (250, 0.75), (1000, 3.0), (9000, 3.0)):
        model.images_seen = seen
        terms = model.loss(x)
        torch.testing.assert_close(terms["loss"], terms["reconstruction"] + beta * terms["kl"])
    assert not terms["kl"].requires_grad and not terms["bits_per_dim"].requires_grad


def mixture_vae(k: int) -> VAE:
    return VAE(
        (2, 1, 1),
        torch.optim.SGD,
        encoder=lambda out_features, image_shape: Identity(log_var=-30.0),
        decoder=lambda in_features, out_channels: Identity(),
        head=Gaussian(),
        latent_dim=2,
        mixture=k,
    )


def test_mixture_recovers_known_gaussians() -> None:
    a = MultivariateNormal(torch.tensor([-0.4, 0.2]), torch.tensor([[0.010, 0.006], [0.006, 0.008]]))
    b = MultivariateNormal(torch.tensor([0.5, -0.3]), torch.tensor([[0.004, -0.002], [-0.002, 0.012]]))
    x = torch.cat([a.sample((3000,)), b.sample((1000,))])[torch.randperm(4000), :, None, None]
    model = mixture_vae(2)
    model.after_fit((part, None) for part in x.split(500))
    order = model.mixture_means[:, 0].argsort()
    factors = model.mixture_factors[order]
    torch.testing.assert_close(model.mixture_weights[order], torch.tensor([0.75, 0.25]), rtol=0, atol=0.01)
    torch.testing.assert_close(model.mixture_means[order], torch.stack([a.mean, b.mean]), rtol=0, atol=0.01)
    covariances = torch.stack([a.covariance_matrix, b.covariance_matrix])
    torch.testing.assert_close(factors @ factors.mT, covariances, rtol=0, atol=1.5e-3)
    drawn = model.sample(20_000).flatten(1)
    torch.testing.assert_close(drawn.mean(0), x.flatten(1).mean(0), rtol=0, atol=0.02)
    torch.testing.assert_close(drawn.T.cov(), x.flatten(1).T.cov(), rtol=0, atol=0.01)
    left = drawn[drawn[:, 0] < 0.1]
    assert len(left) / 20_000 == pytest.approx(0.75, abs=0.02)
    torch.testing.assert_close(left.T.cov(), a.covariance_matrix, rtol=0, atol=1.5e-3)


def test_sampling_names_its_prior() -> None:
    assert "mixture" in mixture_vae(2).sampling and "2" in mixture_vae(2).sampling
    assert "N(0, I)" in mixture_vae(0).sampling
    plain = mixture_vae(0)
    plain.after_fit([])  # nothing to fit, nothing read
    assert plain.sample(5000).std() == pytest.approx(math.sqrt(0.5161), rel=0.05)  # of N(0, 1) clipped to ±1


def test_a_reconstruction_is_its_decoded_code() -> None:
    x = torch.rand(4, 2, 1, 1) * 2 - 1
    torch.testing.assert_close(mixture_vae(0).reconstruct(x), x)


def test_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="VAE was trained without classes"):
        mixture_vae(0).sample(2, torch.zeros(2, dtype=torch.long))
