"""What happens around training, on a model of one number whose every step is known."""

import copy
import csv
import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn

from genzoo.budget import NEVER, Budget, LearningRate, warmup_cosine
from genzoo.callbacks import EMA, Bar, Curves, Judge, Noise, averaged
from genzoo.checkpoints import LastCheckpoint, SealedIO, read
from genzoo.finite import NotFinite
from genzoo.generator import Generator
from genzoo.loggers import CurvesFile
from genzoo.models.gan import GAN, hinge
from genzoo.nets import mlp

SHAPE = (1, 2, 2)


class Batches:
    """Equal batches; a class of its own since torch's DataLoader draws random numbers."""

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[Tensor, None]]:
        return iter([(torch.zeros(self.size, *SHAPE), None)] * self.count)


class Falling(Generator):
    """Its parameter falls by the learning rate, 0.5, at every step; from image `nan_from` on its loss is NaN."""

    def __init__(self, nan_from: float = math.inf, fused: bool = False) -> None:
        super().__init__(SHAPE, partial(torch.optim.SGD, lr=0.5, fused=fused))
        self.level = nn.Parameter(torch.tensor(10.0))
        self.register_buffer("count", torch.tensor(7))
        self.nan_from = nan_from

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        bad = self.training and self.images_seen + len(x) >= self.nan_from
        loss = self.level * (math.nan if bad else 1.0)
        return {"loss": loss, "twice": 2 * loss.detach()}

    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        return torch.rand(n, *self.image_shape, device=self.device) * 2 - 1


def gan() -> GAN:
    nets = {"image_shape": SHAPE, "width": 4}
    return GAN(SHAPE, torch.optim.SGD, partial(mlp.Decoder, **nets), partial(mlp.Encoder, **nets), hinge, 2)


def fit(
    model: Generator,
    callbacks: Sequence[Callback],
    batches: int = 6,
    size: int = 10,
    checkpoint: Path | None = None,
    **options,
) -> Trainer:
    """Train on `batches` batches an epoch without end; the callbacks must end it."""
    quiet = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    options = {
        "logger": False,
        "max_epochs": -1,
        "num_sanity_val_steps": 0,
        "plugins": [SealedIO()],
        **quiet,
        **options,
    }
    trainer = Trainer(accelerator="cpu", callbacks=list(callbacks), check_val_every_n_epoch=None, **options)
    validation = Batches(1, size) if "val_check_interval" in options else None
    trainer.fit(model, Batches(batches, size), validation, ckpt_path=checkpoint, weights_only=True)
    return trainer


# --- Budget.


@pytest.mark.parametrize("make", [Falling, gan])
@pytest.mark.parametrize(("images", "seen"), [(10, 10), (11, 20), (60, 60), (61, 70), (125, 130)])
def test_budget_ends_with_the_batch_that_reaches_it(make, images: int, seen: int) -> None:
    """Also for a GAN, whose two optimisers take two steps a batch; over as many epochs as that needs."""
    model, budget = make(), Budget(images)
    trainer = fit(model, [budget])
    assert model.images_seen == seen
    assert trainer.global_step == seen // 10 * (2 if make is gan else 1)
    assert budget.seconds > 0


def test_budget_that_is_used_up_trains_no_more() -> None:
    model = Falling()
    model.images_seen = 40
    fit(model, [Budget(40)])
    assert model.images_seen == 40 and model.level.item() == 10


class Linear(Falling):
    """A step of known cost: 4 x 3 multiply-adds an image forward, as many for the gradient of the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 3, bias=False)

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        return {"loss": self.net(x.flatten(1)).mean()}


def test_a_budget_of_flops() -> None:
    model, budget = Linear(), Budget(10, flops=2 * 24 * 35, checks=2)
    fit(model, [LearningRate(schedule=lambda share: share), budget])
    assert budget.multiply_adds == 24
    assert model.images_seen == 40  # the batch that passes 35
    assert budget.record() == {"kind": "flops", "asked": 2 * 24 * 35, "spent": 2 * 24 * 40, "reached": True}


def test_flops_that_cannot_be_counted_are_refused() -> None:
    with pytest.raises(ValueError, match=r"budget\.flops.*no multiply-adds"):
        fit(Falling(), [Budget(10, flops=100.0)])


def test_a_budget_of_minutes(monkeypatch) -> None:
    """A clock that moves on by six seconds whenever it is asked: once a batch."""
    clock = iter(range(0, 10_000, 6))
    monkeypatch.setattr("genzoo.budget.time.perf_counter", lambda: next(clock))
    model, budget = Falling(), Budget(10, minutes=0.5)
    fit(model, [budget])
    assert model.images_seen == 50
    assert budget.record()["reached"] and budget.record()["spent"] == pytest.approx(0.6, abs=0.11)  # and the end's tick


@pytest.mark.parametrize("unit", [{}, {"flops": 2 * 24 * 60.0}])
def test_validations_at_equal_shares_of_the_budget(unit: dict) -> None:
    class Watch(Callback):
        def __init__(self) -> None:
            self.seen = []

        def on_validation_end(self, trainer: Trainer, model: Generator) -> None:
            self.seen.append(model.images_seen)

    watch = Watch()
    fit(Linear(), [Budget(60, **unit, checks=3), watch], batches=4, val_check_interval=NEVER)
    assert watch.seen == [20, 40, 60]


class Hearing(Falling):
    """Writes down at every step what it is told that it has spent."""

    def __init__(self) -> None:
        super().__init__()
        self.told = []

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        self.told.append(self.spent)
        return super().loss(x, y)


def test_the_model_knows_the_share_of_the_budget_that_it_has_spent(tmp_path: Path) -> None:
    """Whatever stands before the budget among the callbacks, and where a run goes on."""
    model, budget = Hearing(), Budget(50)
    trainer = fit(model, [LastCheckpoint(tmp_path), budget], max_epochs=1, batches=3)
    assert model.told == [0.0, 0.2, 0.4] and model.spent == 0.6
    trainer.save_checkpoint(tmp_path / "here.ckpt")
    again = Hearing()
    fit(again, [LastCheckpoint(tmp_path), Budget(50)], checkpoint=tmp_path / "here.ckpt", size=15)
    assert again.told == [0.6, 0.9] and again.spent == 1.0


def test_a_run_that_ends_before_its_budget_says_so() -> None:
    budget = Budget(60)
    fit(Falling(), [budget], max_epochs=1, batches=3)
    assert budget.record() == {"kind": "images", "asked": 60, "spent": 30, "reached": False}


# --- Learning rate.


def test_warmup_cosine_at_its_ends() -> None:
    rate = partial(warmup_cosine, warmup=0.1, last=0.2)
    assert [rate(p) for p in (0, 0.05, 0.1, 0.55, 1.0, 1.3)] == pytest.approx([0, 0.5, 1, 0.6, 0.2, 0.2])
    assert [warmup_cosine(p, warmup=0.0) for p in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])
    rises = [rate(p / 100) for p in range(11)]
    falls = [rate(p / 100) for p in range(10, 101)]
    assert rises == sorted(rises) and falls == sorted(falls, reverse=True)


def test_learning_rate_follows_the_images() -> None:
    """SGD on the loss `level` takes steps of the learning rate itself."""
    model = Falling()
    fit(model, [LearningRate(schedule=lambda share: share), Budget(60)])
    assert model.level.item() == pytest.approx(10 - 0.5 * sum(k / 6 for k in range(1, 7)))


def test_learning_rate_reaches_both_players() -> None:
    model = gan()
    trainer = fit(model, [LearningRate(schedule=lambda share: 1 - share / 2), Budget(60)])
    assert [o.param_groups[0]["lr"] for o in trainer.optimizers] == pytest.approx([0.5e-3] * 2)


# --- EMA.


def test_ema_is_the_recursion() -> None:
    """Steps of 0.5 from 10: 9.5, 9, ...; a_n = d a_{n-1} + (1 - d) w_n with d = min(decay, (1 + n) / (10 + n))."""
    ema, model = EMA(decay=0.3), Falling()
    fit(model, [ema, Budget(80)])
    average = 9.5  # the weights after the first batch
    for n in range(8):
        decay = min(0.3, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * (9.5 - 0.5 * n)
    assert ema.batches == 8
    assert ema.average.keys() == {"level"}
    assert ema.average["level"].item() == pytest.approx(average, rel=1e-6)
    assert model.level.item() == 6.0


def test_ema_steps_once_a_batch_for_a_gan() -> None:
    ema, model = EMA(decay=0.9), gan()
    fit(model, [ema, Budget(50)])
    assert ema.batches == 5
    assert ema.average.keys() == dict(model.named_parameters()).keys()


def test_swapping_twice_restores_every_bit() -> None:
    ema, model = EMA(0.9), gan()
    fit(model, [ema, Budget(30)])
    raw, average = copy.deepcopy(model.state_dict()), copy.deepcopy(ema.average)
    ema.swap(model)
    assert all(torch.equal(p, average[name]) for name, p in model.named_parameters())
    ema.swap(model)
    assert all(torch.equal(value, raw[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(value, average[name]) for name, value in ema.average.items())


def test_buffers_are_not_averaged() -> None:
    ema, model = EMA(0.9), Falling()
    trainer = fit(model, [ema, Budget(30)])
    model.count.fill_(9)
    with averaged(trainer, model):
        assert model.count == 9 and model.count.dtype == torch.int64


def test_averaged_puts_the_weights_back_after_an_error() -> None:
    ema, model = EMA(0.9), Falling()
    trainer = fit(model, [ema, Budget(30)])
    raw = model.level.item()
    with pytest.raises(KeyError), averaged(trainer, model):
        assert model.level.item() != raw and not model.training
        raise KeyError
    assert model.level.item() == raw


class Witness(Callback):
    """Remembers the weights that judges see."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_validation_epoch_end(self, trainer: Trainer, model: Generator) -> None:
        self.seen.append(model.level.item())


def test_judges_see_the_average_and_training_goes_on_with_the_raw_weights() -> None:
    ema, witness, model = EMA(0.9), Witness(), Falling()
    fit(model, [Budget(60), ema, witness], val_check_interval=6)
    assert witness.seen == [ema.average["level"].item()]
    assert model.level.item() == 7.0


def test_a_model_without_averages_is_judged_as_it_is() -> None:
    model = Falling()
    trainer = fit(model, [Budget(30)])
    with averaged(trainer, model) as judged:
        assert judged.level.item() == 8.5


# --- Curves.


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "curves.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("make", [Falling, gan])
def test_curves_count_images(make, tmp_path: Path) -> None:
    fit(make(), [Budget(120), Curves(points=4)], logger=CurvesFile(tmp_path), val_check_interval=6)
    train = [row for row in rows(tmp_path) if row["name"] == "train/loss"]
    assert [int(row["images"]) for row in train] == [30, 60, 90, 120]
    assert [int(row["images"]) for row in rows(tmp_path) if row["name"] == "val/loss"] == [60, 120]
    if make is Falling:
        assert [float(row["value"]) for row in train] == [10 - 0.5 * k for k in (2, 5, 8, 11)]


def test_judge_writes_a_grid_and_its_scores(tmp_path: Path) -> None:
    judge, model = Judge(tmp_path / "samples.png", n=9), Falling()
    fakes = []
    judge.score = lambda fake: fakes.append(fake) or {"mean": fake.float().mean().item()}
    callbacks = [Budget(60), Curves(), judge]
    torch.manual_seed(4)
    fit(model, callbacks, logger=CurvesFile(tmp_path), val_check_interval=3)
    assert (tmp_path / "samples.png").stat().st_size > 100
    assert [f.shape for f in fakes] == [(9, *SHAPE)] * 2 and fakes[0].dtype == torch.uint8
    assert torch.equal(*fakes)  # one seed
    assert [int(row["images"]) for row in rows(tmp_path) if row["name"] == "score/mean"] == [30, 60]


def test_judging_leaves_the_random_numbers_of_training_alone(tmp_path: Path) -> None:
    class Draws(Callback):
        def __init__(self) -> None:
            self.drawn: list[float] = []

        def on_train_batch_end(self, *_) -> None:
            self.drawn.append(torch.rand(()).item())

    with_judge, without = Draws(), Draws()
    torch.manual_seed(4)
    fit(Falling(), [Budget(60), with_judge, Judge(tmp_path / "x.png", n=4)], val_check_interval=2)
    torch.manual_seed(4)
    fit(Falling(), [Budget(60), without], val_check_interval=2)
    assert with_judge.drawn == without.drawn


def test_judging_says_that_samples_are_not_finite_and_gives_no_score(tmp_path: Path, caplog) -> None:
    model, judge = Falling(), Judge(tmp_path / "x.png", n=4)
    judge.score = lambda fake: {"mean": 1.0}
    model.sample = lambda n: torch.full((n, *SHAPE), math.inf)
    fit(model, [Budget(20), Curves(), judge], logger=CurvesFile(tmp_path), val_check_interval=1)
    assert "falling: samples after 10 images hold NaN or infinity" in caplog.text
    assert not [row for row in rows(tmp_path) if row["name"] == "score/mean"]


# --- Noise.


class Draws(Callback):
    """Notes a random number in each batch."""

    def __init__(self) -> None:
        self.drawn: dict[int, float] = {}

    def on_before_zero_grad(self, trainer: Trainer, model: Generator, *_) -> None:
        self.drawn[model.images_seen] = torch.rand(()).item()


def test_noise_follows_from_the_seed_and_the_images_alone() -> None:
    def drawn(seed: int, images: int, **options) -> dict[int, float]:
        draws = Draws()
        torch.manual_seed(seed)
        fit(Falling(), [Noise(), Budget(images), draws], **options)
        return draws.drawn

    first = drawn(4, 60)
    assert len(set(first.values())) == 6
    assert drawn(4, 30) == {images: u for images, u in first.items() if images < 30}
    assert drawn(4, 60, val_check_interval=2) == first  # whatever validations draw
    assert not set(drawn(5, 60).values()) & set(first.values())


# --- Numbers that are none.


class Broken(Falling):
    """Its gradient is NaN in the batch that begins at image `nan_from`, its loss stays finite."""

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        loss = self.level * 1.0
        if self.training and self.images_seen == self.nan_from:
            loss.register_hook(lambda gradient: gradient * math.nan)
        return {"loss": loss}


@pytest.mark.parametrize("fused", [False, True])
def test_nan_ends_the_run_in_one_sentence_before_it_moves_a_weight(fused: bool) -> None:
    model, ema = Falling(nan_from=30, fused=fused), EMA(0.9)
    with pytest.raises(ValueError, match=r"^falling: twice became nan after 30 images; lower model.opt.* on_nan=skip"):
        fit(model, [Budget(10_000), NotFinite(), ema])
    assert model.level.item() == 9.0 and ema.batches == 2


@pytest.mark.parametrize("fused", [False, True])
def test_a_gradient_that_is_nan_ends_the_run(fused: bool, tmp_path: Path) -> None:
    model = Broken(nan_from=20, fused=fused)
    with pytest.raises(ValueError, match=r"^broken: the gradient became infinite or NaN after 30 images"):
        fit(model, [Budget(10_000), NotFinite(), LastCheckpoint(tmp_path, minutes=0)])
    assert model.level.item() == 9.0
    assert read(tmp_path / "last.ckpt")["images_seen"] <= 20  # of the good ones


@pytest.mark.parametrize("fused", [False, True])
def test_such_steps_can_be_left_out_and_are_counted(fused: bool, tmp_path: Path, caplog) -> None:
    model, finite = Broken(nan_from=20, fused=fused), NotFinite(skip=1)
    fit(model, [Budget(60), finite, LastCheckpoint(tmp_path)])
    assert model.level.item() == 10 - 5 * 0.5 and finite.dropped == 1
    assert "step 1 of at most 1 left out" in caplog.text
    assert read(tmp_path / "last.ckpt")["dropped"] == 1
    with pytest.raises(ValueError, match="became nan"):
        fit(Falling(nan_from=30), [Budget(10_000), NotFinite(skip=3)])


@pytest.mark.parametrize("player", ["critic", "generator"])
def test_neither_player_of_a_gan_sees_nan(player: str) -> None:
    model = gan()
    bad = getattr(model, player)
    bad.register_forward_hook(lambda module, x, out: out * math.nan if model.images_seen >= 20 else out)
    with pytest.raises(ValueError, match="became nan after 30 images"):
        fit(model, [Budget(10_000), NotFinite()])
    assert all(p.isfinite().all() for p in model.parameters())


# --- Checkpoints.


def test_checkpoint_is_whole_and_alone(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    fit(Falling(), [Budget(50), EMA(0.9), LastCheckpoint(folder)], val_check_interval=2)
    assert sorted(path.name for path in folder.iterdir()) == ["last.ckpt", "previous.ckpt"]
    saved = torch.load(folder / "last.ckpt", weights_only=True)
    assert saved["images_seen"] == 50 and saved["seconds"] > 0
    assert saved["state_dict"]["level"] == 7.5  # raw: the averages lie beside
    assert saved["ema"]["batches"] == 5


def test_a_fault_between_two_steps_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(loader: Batches) -> Iterator[tuple[Tensor, None]]:
        yield from [(torch.zeros(10, *SHAPE), None)] * 3
        raise ChildProcessError("a data worker died")

    monkeypatch.setattr(Batches, "__iter__", broken)
    with pytest.raises(ChildProcessError):
        fit(Falling(), [Budget(100), LastCheckpoint(tmp_path)])
    assert read(tmp_path / "last.ckpt")["images_seen"] == 30


def test_a_fault_within_a_step_saves_nothing(tmp_path: Path) -> None:
    class Fault(Callback):
        def on_before_optimizer_step(self, trainer: Trainer, model: Generator, *_) -> None:
            if model.images_seen == 30:
                raise OSError("a fault")

    with pytest.raises(OSError, match="a fault"):
        fit(Falling(), [Budget(100), Fault(), LastCheckpoint(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_older_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last = LastCheckpoint(tmp_path)
    trainer = fit(Falling(), [Budget(20), last])
    held = (tmp_path / "last.ckpt").read_bytes()

    def dies(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(trainer, "save_checkpoint", dies)
    with pytest.raises(OSError, match="disk full"):
        last.save(trainer)
    assert (tmp_path / "last.ckpt").read_bytes() == held


@pytest.mark.parametrize("make", [Falling, gan])
def test_a_resumed_run_goes_on_where_it_was(make, tmp_path: Path) -> None:
    class Stop(Callback):
        def on_train_batch_end(self, trainer: Trainer, model: Generator, *_) -> None:
            trainer.should_stop = model.images_seen >= 40

    def callbacks() -> list[Callback]:
        schedule = partial(warmup_cosine, warmup=0.5)
        return [Budget(120), LearningRate(schedule), EMA(0.5), LastCheckpoint(tmp_path)]

    stopped = callbacks()
    fit(make(), [*stopped, Stop()])
    seconds = stopped[0].seconds
    model, resumed = make(), callbacks()
    fit(model, resumed, checkpoint=tmp_path / "last.ckpt")
    assert model.images_seen == 120
    assert resumed[0].seconds > seconds
    assert resumed[2].batches == 12
    if make is Falling:  # where an uninterrupted run arrives
        whole, uninterrupted = make(), callbacks()
        fit(whole, uninterrupted)
        assert model.level.item() == pytest.approx(whole.level.item(), rel=1e-6)
        assert resumed[2].average["level"].item() == pytest.approx(uninterrupted[2].average["level"].item(), rel=1e-6)


def test_a_finished_run_that_is_resumed_does_not_train(tmp_path: Path) -> None:
    fit(Falling(), [Budget(40), EMA(0.5), LastCheckpoint(tmp_path)])
    model = Falling()
    fit(model, [Budget(40), EMA(0.5), LastCheckpoint(tmp_path)], checkpoint=tmp_path / "last.ckpt")
    assert model.images_seen == 40 and model.level.item() == 8.0


def test_bar_ends_full(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar("falling on zeros")
    fit(Falling(), [Budget(60), bar])
    assert bar.bar.n == 60
    assert "falling on zeros: 100%" in capsys.readouterr().err


# --- Gradient clipping, which the base class owns.


def test_gradients_are_clipped_to_a_norm() -> None:
    model = Falling()
    model.clip = 0.25  # of a gradient of 1: each step is a quarter
    fit(model, [Budget(40)])
    assert model.level.item() == pytest.approx(10 - 4 * 0.5 * 0.25, rel=1e-5)
