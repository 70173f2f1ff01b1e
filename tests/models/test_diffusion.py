"""Diffusion's two coordinate systems and its view `denoise`, with nets that know the answer."""

import copy
import math
from functools import partial
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from genzoo import runs
from genzoo.diffusion import schedules, targets, weights
from genzoo.diffusion.grids import trailing
from genzoo.diffusion.guidance import classifier_free
from genzoo.diffusion.samplers import ddim, ddpm, ddpm_learned
from genzoo.diffusion.schedules import linear
from genzoo.generator import HasDenoiser, HasLikelihood, HasLikelihoods
from genzoo.models.diffusion import Diffusion
from genzoo.models.learned_variance import LearnedVariance
from genzoo.nets.conditions import Classes, Layout
from genzoo.nets.dit import DiT
from genzoo.nets.mlp import Denoiser
from genzoo.nets.text import Text
from genzoo.nets.unet import UNet


class Answer(nn.Module):
    """A net that says what it was told to, and remembers what it saw."""

    def __init__(self, answer: Tensor | None = None) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        self.x, self.t, self.y = x, t, y
        return self.answer


class Point(nn.Module):
    """The exact noise predictor of data that is one point."""

    def __init__(self, x0: Tensor, sigmas: Tensor) -> None:
        super().__init__()
        self.x0, self.alpha_bar = x0, 1 / (1 + sigmas**2)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        assert torch.equal(t, t.round())  # losses and samplers stay on the training grid
        alpha_bar = self.alpha_bar[t.long()].view(-1, 1, 1, 1)
        return ((x - alpha_bar.sqrt() * self.x0) / (1 - alpha_bar).sqrt()).float()


def model(net: nn.Module, schedule=linear, sampler=ddim, steps: int = 10, **more) -> Diffusion:
    return Diffusion((1, 4, 6), torch.optim.SGD, net, schedule(), sampler, trailing, steps, **more)


def test_denoise_with_a_perfect_net_gives_x0() -> None:
    x0, noise = 2 * torch.rand(1000, 1, 4, 6).double() - 1, torch.randn(1000, 1, 4, 6).double()
    m = model(Answer(noise)).double()
    sigma = m.sigmas.view(-1, 1, 1, 1)
    torch.testing.assert_close(m.denoise(x0 + sigma * noise, sigma), x0, rtol=0, atol=1e-12)
    assert torch.equal(m.net.t, torch.arange(1000))
    # what the net saw is x_t of equation 4
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0).view(-1, 1, 1, 1)
    expected = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise
    torch.testing.assert_close(m.net.x, expected, rtol=0, atol=1e-4)  # float32 buffers


def test_denoise_clips_and_takes_one_sigma_for_all() -> None:
    m = model(Answer(torch.zeros(2, 1, 4, 6)))
    x = torch.stack([torch.full((1, 4, 6), 3.0), torch.full((1, 4, 6), -0.5)])
    x0 = m.denoise(x, torch.tensor(2.0))
    assert (x0[0] == 1).all() and (x0[1] == -0.5).all()
    torch.testing.assert_close(m.net.x, x / math.sqrt(5))


def test_predict_is_unclipped_and_continuous() -> None:
    m = model(Denoiser((1, 4, 6), width=8)).double()
    x = 3 * torch.randn(1, 1, 4, 6).double()
    assert m.predict(x, torch.tensor(0.5)).abs().max() > 1
    assert torch.equal(m.denoise(x, torch.tensor(0.5)), m.predict(x, torch.tensor(0.5)).clamp(-1, 1))
    sigma = torch.linspace(0.4, 0.6, 20_001).double()[:, None, None, None]  # across many steps of the grid
    assert m.predict(x.expand(20_001, -1, -1, -1), sigma).diff(dim=0).abs().max() < 1e-3


def test_loss_is_the_mean_squared_error_of_the_noise() -> None:
    x = torch.rand(4000, 1, 4, 6) * 2 - 1
    silent = model(Answer(torch.zeros(4000, 1, 4, 6)))
    assert silent.loss(x)["loss"].item() == pytest.approx(1.0, abs=0.02)  # E|noise|^2
    assert silent.net.t.float().mean() == pytest.approx(499.5, abs=5 * 1000 / math.sqrt(12 * 4000))
    assert silent.net.t.min() < 10 and silent.net.t.max() > 989
    x0 = torch.rand(1, 4, 6)
    knowing = model(Point(x0, linear()))
    assert knowing.loss(x0.expand(500, 1, 4, 6))["loss"].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("sampler", [ddim, ddpm, partial(ddim, eta=1.0)], ids=["ddim", "ddpm", "eta=1"])
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_data_of_one_point_is_sampled(sampler, steps: int) -> None:
    x0 = torch.rand(1, 4, 6) * 1.8 - 0.9
    x = model(Point(x0, linear()), sampler=sampler, steps=steps).sample(3)
    torch.testing.assert_close(x, x0.expand(3, 1, 4, 6), rtol=0, atol=1e-4)


def test_the_sampler_can_be_exchanged() -> None:
    m = model(Point(torch.zeros(1, 4, 6), linear()), steps=10)
    assert isinstance(m, HasDenoiser)
    assert m.sampling == "ddim, 10 steps, trailing"
    m.sampler, m.steps = partial(ddim, eta=0.5), 4
    assert m.sampling == "ddim, 4 steps, eta 0.5, trailing"
    calls = []
    m.net.register_forward_hook(lambda *_: calls.append(1))
    m.sample(2)
    assert len(calls) == m.nfe == 4


class GaussianNoise(nn.Module):
    """The exact noise predictor of data N(0.1, 0.3^2), which also knows what lies between the steps."""

    def __init__(self, sigmas: Tensor) -> None:
        super().__init__()
        self.log_sigmas = sigmas.log()

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        below = t.long().clamp(max=len(self.log_sigmas) - 2)
        sigma = torch.lerp(self.log_sigmas[below], self.log_sigmas[below + 1], t - below).exp().view(-1, 1, 1, 1)
        x = x_t * torch.sqrt(1 + sigma**2)
        return (x - (0.3**2 * x + sigma**2 * 0.1) / (0.3**2 + sigma**2)) / sigma


@pytest.fixture
def gaussian() -> Diffusion:
    m = model(nn.Identity()).double()
    m.net = GaussianNoise(m.sigmas)
    return m


@pytest.mark.parametrize("shape", [(1, 2, 3), (1, 4, 6)])
def test_likelihoods_of_gaussian_data(gaussian: Diffusion, shape: tuple[int, int, int]) -> None:
    """Both ways against N(0.1, 0.3^2): exact and Hutchinson's trace, and a bound whose gap the coarse steps explain."""
    x = ((Normal(0.1, 0.3).sample((400, *shape)) * 127.5 + 128).floor().clamp(0, 255) / 127.5 - 1).double()
    gaussian.image_shape = shape
    assert isinstance(gaussian, HasLikelihood) and isinstance(gaussian, HasLikelihoods)
    assert gaussian.likelihood == "lower bound"
    bound, ode = gaussian.likelihoods()
    trace = "exact trace" if shape == (1, 2, 3) else "Hutchinson trace, 1 probe"
    assert bound[:2] == ("lower bound", "VLB, 25 of 999 terms")
    assert ode[:2] == ("estimate", f"probability-flow ODE, RK45, tolerance 0.0001, {trace}")
    # at the smallest sigma the data have that much noise more; the bins are too narrow to matter
    sigma_min = gaussian.sigmas[0].item()
    log_p = Normal(0.1, math.hypot(0.3, sigma_min)).log_prob(x).sum((1, 2, 3))
    d = math.prod(shape)
    assert (ode.log_prob(x) - log_p).mean().item() == pytest.approx(0, abs=0.003 * d)
    assert bound.terms == ("prior", "diffusion", "reconstruction")
    gap = (log_p - bound.log_prob(x).sum(1)) / d
    waste = sum(0.5 * (r**2 - 1) - math.log(r) for r in (gaussian.sigmas[1:] / gaussian.sigmas[:-1]).tolist()[:300])
    assert gap.mean().item() == pytest.approx(waste, abs=0.1)
    assert gap.mean() > 0


def test_the_ode_starts_from_the_dequantised_image(gaussian: Diffusion) -> None:
    seen = []
    gaussian.net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    x = (torch.randint(256, (500, 1, 4, 6)) / 127.5 - 1).double()
    gaussian.ode_log_prob(x)
    x_t, t, _ = seen[0]
    moved = (x_t * torch.sqrt(1 + gaussian.sigmas[0] ** 2) - x) * 127.5
    assert not t.any()
    assert moved.abs().max() <= 0.5 + 1e-9 and moved.std().item() == pytest.approx(1 / math.sqrt(12), rel=0.02)


def test_bound_takes_all_steps_where_there_are_few() -> None:
    m = model(nn.Identity(), partial(linear, 20))
    m.net = GaussianNoise(m.sigmas)
    assert m.likelihoods()[0].method == "VLB, 19 of 19 terms"
    calls = []
    m.net.register_forward_hook(lambda *_: calls.append(1))
    assert m.log_prob(torch.zeros(3, 1, 4, 6)).isfinite().all()
    assert len(calls) == 20  # and the reconstruction's


def test_refusals() -> None:
    with pytest.raises(ValueError, match="steps=1001"):
        model(Point(torch.zeros(1, 4, 6), linear()), steps=1001)
    m = model(Point(torch.zeros(1, 4, 6), linear()), steps=10)
    with pytest.raises(ValueError, match="without classes"):
        m.sample(1, torch.zeros(1, dtype=torch.long))


# --- Every way to parametrise it.

MEAN, STD = 0.1, 0.3
SCHEDULES = ["linear", "cosine", "sigmoid", "karras", "log_linear", "flow"]


class Optimal(nn.Module):
    """The net whose D is E[x0 | x] of data N(MEAN, STD^2), whatever it is asked to predict."""

    def __init__(self, sigmas: Tensor, target=targets.noise, mean: float = MEAN, std: float = STD) -> None:
        super().__init__()
        self.log_sigmas, self.target, self.mean, self.std = sigmas.log(), target, mean, std

    def forward(self, x_in: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        below = t.long().clamp(max=len(self.log_sigmas) - 2)
        sigma = torch.lerp(self.log_sigmas[below], self.log_sigmas[below + 1], t - below).exp().view(-1, 1, 1, 1)
        c = self.target(sigma)
        x = x_in / c.c_in
        x0 = (self.std**2 * x + sigma**2 * self.mean) / (self.std**2 + sigma**2)
        return (x0 - c.c_skip * x) / c.c_out


def optimal(target=targets.noise, schedule: str = "linear", **more) -> Diffusion:
    table = getattr(schedules, schedule)
    m = model(nn.Identity(), table, target=target, **{"limit": None, **more}).double()
    m.net = Optimal(m.sigmas, target)
    return m


ALL_TARGETS = [targets.noise, targets.x0, targets.v, partial(targets.edm, sigma_data=STD), targets.velocity]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("target", ALL_TARGETS, ids=lambda t: getattr(t, "func", t).__name__)
def test_no_net_has_a_smaller_loss_than_the_optimal_one(target, schedule: str) -> None:
    m = optimal(target, schedule, weight=weights.min_snr)
    x = MEAN + STD * torch.randn(20_000, 1, 1, 1).double()
    losses = []
    for off in (0.0, 0.1, -0.1):
        hook = m.net.register_forward_hook(lambda net, args, out, off=off: out * (1 + off) + off)
        torch.manual_seed(1)
        losses.append(m.loss(x)["loss"].item())
        hook.remove()
    assert losses[0] < min(losses[1:])


@pytest.mark.parametrize("target", ALL_TARGETS, ids=lambda t: getattr(t, "func", t).__name__)
def test_all_targets_are_one_denoiser(target) -> None:
    m, sigma = optimal(target), torch.tensor(0.7).double()
    x = torch.randn(9, 1, 4, 6).double()
    expected = (STD**2 * x + sigma**2 * MEAN) / (STD**2 + sigma**2)
    torch.testing.assert_close(m.denoise(x, sigma), expected, rtol=0, atol=1e-6)
    assert m.sample(2).shape == (2, 1, 4, 6)


def test_the_weighted_loss_is_the_error_of_the_image() -> None:
    """Under every target, loss(weight) = E weight_on_x0 (x0 - x0_hat)^2: with SNR the same number."""
    x = MEAN + STD * torch.randn(500, 1, 2, 2).double()
    losses = []
    for target in ALL_TARGETS:
        m = optimal(target, weight=weights.snr)
        torch.manual_seed(3)
        losses.append(m.loss(x)["loss"].item())
    assert losses == pytest.approx([losses[0]] * len(losses), rel=1e-6)


def test_the_pairing_is_used_in_training() -> None:
    m = model(Answer(torch.zeros(8, 1, 4, 6)), pair=lambda x, noise: x)
    x = torch.randn(8, 1, 4, 6)
    m.loss(x)
    sigma = m.sigmas[m.net.t.long()].view(-1, 1, 1, 1)
    torch.testing.assert_close(m.net.x, (x + sigma * x) / torch.sqrt(1 + sigma**2))


# --- Latents.


@pytest.mark.parametrize("schedule", ["linear", "karras", "flow"])
def test_the_latent_of_gaussian_data_is_the_standardised_image(schedule: str) -> None:
    m = optimal(targets.v, schedule, inversion=200)
    x = MEAN + STD * torch.randn(50, 1, 2, 2).double()
    x = x.clamp(-1, 1)
    z = m.encode(x)
    low, high = m.sigmas[0].item(), m.sigmas[-1].item()
    expected = (MEAN + (x - MEAN) * math.hypot(STD, high) / math.hypot(STD, low)) / high
    torch.testing.assert_close(z, expected, rtol=0, atol=4e-3)
    torch.testing.assert_close(m.decode(z), x, rtol=0, atol=2e-3)


# --- Classes.


class Shifted(nn.Module):
    """A net of four classes that answers with the class id it is given, or with -1."""

    def __init__(self) -> None:
        super().__init__()
        self.condition = Classes(4, 2)
        self.seen: list[Tensor | None] = []

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        self.seen.append(y)
        y = torch.full((len(x),), -1) if y is None else y
        return torch.zeros_like(x) + 0.1 * y.view(-1, 1, 1, 1)


def conditional(**more) -> Diffusion:
    return model(Shifted(), target=targets.x0, **more)


def test_a_share_of_the_labels_is_dropped() -> None:
    m = conditional(dropout=0.3)
    y = torch.arange(4).repeat(5000)
    m.loss(torch.zeros(20_000, 1, 4, 6), y)
    seen = m.net.seen[0]
    dropped = seen == 4  # the null's id
    assert torch.equal(seen[~dropped], y[~dropped])
    assert dropped.double().mean().item() == pytest.approx(0.3, abs=4 * math.sqrt(0.3 * 0.7 / 20_000))
    with pytest.raises(ValueError, match=r"Classes takes y .* but the data has none: set condition=none"):
        m.loss(torch.zeros(2, 1, 4, 6))


def test_guidance_goes_from_the_null_to_the_class_and_beyond() -> None:
    y = torch.tensor([0, 3, 1])
    for scale, values, calls in ((1.0, 0.1 * y, 5), (0.0, torch.full((3,), -0.1), 5), (2.0, 0.2 * y + 0.1, 10)):
        m = conditional(steps=5)
        m.guidance = partial(m.guidance, scale=scale)
        x = m.sample(3, y)
        torch.testing.assert_close(x, values.float().view(-1, 1, 1, 1).expand_as(x))
        assert m.nfe == calls
    assert m.sampling == "ddim, 5 steps, trailing, classifier_free scale 2.0"


def test_a_guides_calls_are_counted() -> None:
    m, guide = conditional(steps=5), conditional()
    m.guides, m.guidance = [guide], partial(m.guidance, scale=1.5)
    m.sample(2)
    assert m.nfe == 10 and len(guide.net.seen) == 5
    assert not [name for name, _ in m.named_parameters() if "guide" in name]
    assert m.sampling.endswith("classifier_free scale 1.5, guide diffusion")


def test_classes_are_drawn_as_the_data_has_them() -> None:
    m = conditional(steps=1)
    y = torch.tensor([0] * 10 + [1] * 60 + [3] * 30)
    m.after_fit([(torch.zeros(50, 1, 4, 6), part) for part in y.split(50)])
    assert torch.equal(torch.bincount(m.asks, minlength=4), torch.tensor([100, 600, 0, 300]))
    m.sample(4000)
    counts = torch.bincount(m.net.seen[0], minlength=4) / 4000
    torch.testing.assert_close(counts, torch.tensor([0.1, 0.6, 0.0, 0.3]), rtol=0, atol=0.035)
    with pytest.raises(ValueError, match=r"y=\[4\]: this model knows the classes 0 to 3"):
        m.sample(1, torch.tensor([4]))
    with pytest.raises(ValueError, match=r"y of shape \(1,\): 2 images take y of shape \(2,\)"):
        m.sample(2, torch.tensor([3]))


# --- Other conditions.

BOXES = torch.tensor([[[3, 0.1, 0.2, 0.4, 0.6], [-1, 0, 0, 0, 0]], [[1, 0.5, 0.1, 0.9, 0.5], [2, 0.0, 0.0, 0.4, 0.4]]])
NETS = {"unet": partial(UNet, (1, 4, 6), 8), "dit": partial(DiT, (1, 4, 6), 8), "mlp": partial(Denoiser, (1, 4, 6), 8)}


def stirred(net: nn.Module) -> nn.Module:
    """Off the zeros at which layers start."""
    for p in net.parameters():
        nn.init.normal_(p, std=0.2)
    return net


@pytest.mark.parametrize("name", NETS)
def test_guidance_0_and_1_are_exact(name: str) -> None:
    """Of boxes: scale 0 is the net without y, scale 1 the net with y, bit for bit."""
    m = model(stirred(NETS[name](condition=Layout(4, 2, 8))), target=targets.x0).eval()
    x, sigma = torch.randn(2, 1, 4, 6), torch.tensor(1.0)
    with torch.no_grad():
        without, told = m.denoise(x, sigma), m.denoise(x, sigma, BOXES)
        assert torch.equal(m.denoise(x, sigma, m.condition.null(2)), without)
        assert torch.equal(m.denoiser(None)(x, sigma), without)
        for scale, expected in ((0.0, without), (1.0, told)):
            m.guidance = partial(classifier_free, scale=scale)
            assert torch.equal(m.denoiser(BOXES)(x, sigma), expected)
    assert not torch.equal(without, told)
    assert m.classes == 0 and m.condition is m.net.condition


EACH = ["classes", "layout", "text", "inpaint", "superres", "edges"]
KINDS = ["classes", "text", "edges"]  # of which a net makes a vector, tokens and maps
TOLD = [*product(["ddpm"], EACH), *product(["ddpm_learned_variance", "consistency", "mean_flow"], KINDS)]


@pytest.mark.parametrize(("name", "condition"), TOLD)
def test_a_conditional_model_trains_and_samples_what_the_data_asks(settings, name: str, condition: str) -> None:
    m = runs.build(settings(f"model={name}", f"condition={condition}", "width=8", "steps=2", "blocks=1"))
    x = torch.rand(70, 1, 8, 8) * 2 - 1
    y = {
        "layout": torch.cat([BOXES, BOXES.flip(1)], 1).repeat(35, 1, 1),
        "text": torch.randint(97, 123, (70, 100), dtype=torch.uint8),
    }.get(condition, torch.arange(70) % 10)
    optimizer = torch.optim.Adam(m.parameters(), 1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        m.loss(x, y)["loss"].backward()
        optimizer.step()
    m.eval().after_fit([(x[:40], y[:40]), (x[40:], y[40:])])
    assert m.asks.shape == (1000, *m.condition.nothing.shape)
    asked = m.condition.of(x, y)
    if condition != "inpaint":  # whose holes are drawn anew
        assert len(torch.unique(torch.cat([asked, m.asks]), dim=0)) == len(torch.unique(asked, dim=0))
    drawn = []
    for given in (None, m.asks[:2], m.condition.null(2) if condition != "classes" else m.asks[-2:]):
        torch.manual_seed(2)
        drawn.append(m.sample(2, given))
    assert all(images.shape == (2, 1, 8, 8) for images in drawn)
    assert not torch.equal(drawn[1], drawn[2])
    fresh = copy.deepcopy(m)
    fresh.load_state_dict(m.state_dict())
    torch.manual_seed(2)
    assert torch.equal(fresh.sample(2), drawn[0])


class Data:
    """What a model asks of its data at the start."""

    def __init__(self, x: Tensor, y: Tensor | None, num_classes: int = 0) -> None:
        self.x, self.y, self.num_classes = x, y, num_classes

    def epoch(self):
        yield from [(self.x, self.y)] * 40

    def on_after_batch_transfer(self, batch, dataloader_idx: int):
        return batch


def starting(m: Diffusion, data: Data | None) -> Diffusion:
    m._trainer = SimpleNamespace(datamodule=data, precision="32-true")
    m.on_fit_start()
    return m


def test_the_start_of_training_knows_the_data() -> None:
    x = torch.zeros(30, 1, 4, 6)
    y = torch.arange(30) % 4
    assert set(starting(conditional(), Data(x, y, 4)).asks.tolist()) == {0, 1, 2, 3}
    assert starting(conditional(), None).asks.unique() == 4
    with pytest.raises(ValueError, match=r"condition.classes=4, but the data has 7: set condition.classes=7"):
        starting(conditional(), Data(x, y, 7))
    with pytest.raises(ValueError, match=r"but the data has (none|0): set condition"):
        starting(conditional(), Data(x, None))
    with pytest.raises(ValueError, match=r"Text takes .* but the data has none: take data of captions"):
        starting(model(NETS["unet"](condition=Text(40, 8))), Data(x, None))
    boxed = model(NETS["unet"](condition=Layout(4, 3, 8)))
    with pytest.raises(ValueError, match=r"\(n, 3, 5\), but the data has \(n, 2, 5\): .*condition.slots"):
        starting(boxed, Data(x[:2], BOXES))
    with pytest.raises(ValueError, match=r"but the data has \(n,\): take data of boxes"):
        starting(boxed, Data(x, y, 4))
    with pytest.raises(ValueError, match=r"but the data has (\(n, 2, 5\)|0): set condition"):
        starting(conditional(), Data(x[:2], BOXES))


# --- The learned variance (Nichol & Dhariwal 2021).


class Both(nn.Module):
    """`Optimal`'s answer and, as a second array, where the log variance lies: -1 the smallest, 1 the largest."""

    def __init__(self, optimal: Optimal, place: float) -> None:
        super().__init__()
        self.optimal, self.place = optimal, nn.Parameter(torch.tensor(place).double())

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return torch.cat([self.optimal(x, t, y), self.place.expand(x.shape)], 1)


def learned(place: float, **data: float) -> LearnedVariance:
    settings = {"limit": None, "bound_terms": 1000}
    sampler, grid = ddpm_learned, trailing
    m = LearnedVariance((1, 2, 2), torch.optim.SGD, nn.Identity(), linear(100), sampler, grid, steps=20, **settings)
    m = m.double()
    m.net = Both(Optimal(m.sigmas, **data), place)
    return m


def test_learned_variance_lies_between_its_ends() -> None:
    x, (sigma, sigma_next) = torch.randn(3, 1, 2, 2).double(), torch.tensor([2.0, 0.7]).double()
    smallest = sigma_next**2 * (1 - (sigma_next / sigma) ** 2)
    largest = (sigma**2 - sigma_next**2) * (1 + sigma_next**2) / (1 + sigma**2)  # as of samplers.ddpm(large=True)
    for place, expected in ((-1.0, smallest), (1.0, largest), (0.0, (smallest * largest).sqrt())):
        x0, variance = learned(place).moments(x, sigma, sigma_next)
        torch.testing.assert_close(variance, expected.expand_as(x))
        torch.testing.assert_close(x0, learned(place).denoise(x, sigma))


def test_the_bound_is_highest_at_the_true_variance_and_the_loss_leads_there() -> None:
    """Of N(0, 1) data the true reverse variance is the largest."""
    x, bounds, slopes = torch.randn(100, 1, 2, 2).double().clamp(-0.99, 0.99), {}, {}
    for place in (0.5, 1.0, 1.5):
        m = learned(place, mean=0.0, std=1.0)
        torch.manual_seed(0)
        bounds[place] = m.log_prob(x).mean().item()
        terms = m.loss(x.repeat(50, 1, 1, 1))
        terms["loss"].backward()
        slopes[place] = m.net.place.grad.item()
        torch.testing.assert_close(terms["loss"].detach(), terms["simple"] + 1e-3 * terms["vlb"])
    assert bounds[1.0] > max(bounds[0.5], bounds[1.5])
    assert slopes[0.5] < 0 < slopes[1.5]


def test_sampling_with_the_learned_variance() -> None:
    m = learned(0.0)
    x = m.walk(500)
    assert x.mean().item() == pytest.approx(MEAN, abs=0.05) and x.std().item() == pytest.approx(STD, rel=0.15)
    assert m.nfe == 20
    assert m.loss(x.clamp(-1, 1))["loss"].isfinite()
