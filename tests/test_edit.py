"""genzoo.edit as a user types it, on untrained models, whose edits hold to the image all the same."""

import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from genzoo import runs
from genzoo.checkpoints import SealedIO
from genzoo.command import conf_folder
from genzoo.data.captions import caption_bytes
from genzoo.diffusion import editing
from genzoo.edit import (
    Edit,
    asked,
    check_pictures,
    colourise,
    edited,
    inpaint,
    layout,
    main,
    maps,
    read,
    sdedit,
    strip,
    superres,
    text,
)
from genzoo.generator import HasDenoiser, from_uint8
from genzoo.metrics.draw import draw
from genzoo.nets.maps import Edges, LowResolution, known
from genzoo.pictures import frames

from .conftest import composed

TINY = ["width=8", "blocks=1", "steps=4"]
QUICK = "task.method.resamples=2"
SAMPLERS = sorted(Path(conf_folder(), "sampler").glob("*.yaml"))


def build_run(folder: Path, *overrides: str) -> Path:
    """A run folder with an untrained model."""
    torch.manual_seed(0)
    settings = composed(*TINY, *overrides)
    runs.claim(folder, settings)
    model = runs.build(settings)
    for p in model.parameters():  # networks start with zeros at their ends, which nothing gets through
        p.data += 0.1 * torch.randn_like(p)
    SealedIO().save_checkpoint({"state_dict": model.state_dict(), "images_seen": 0}, folder / "checkpoints/last.ckpt")
    return folder


@pytest.fixture(scope="module")
def grey(tmp_path_factory) -> Path:
    return build_run(tmp_path_factory.mktemp("grey"))


@pytest.fixture(scope="module")
def colour(tmp_path_factory) -> Path:
    return build_run(
        tmp_path_factory.mktemp("colour"), "data.image_shape=[3,8,8]", "condition=classes", "condition.classes=3"
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A folder with an image of each kind, a mask, and what is no image."""
    folder, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    for name, shape in {"image": (8, 8), "photo": (8, 8, 3), "small": (4, 4), "wide": (20, 30)}.items():
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(folder / f"{name}.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[2:6, 4:] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    Image.fromarray(0 * mask).save(folder / "black.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def edit(folder: Path, *arguments: str) -> int:
    """The exit code of `python -m genzoo.edit arguments` in a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["genzoo.edit", *arguments])
        patch.delenv("HYDRA_FULL_ERROR", raising=False)
        try:
            return main() or 0
        except SystemExit as stop:
            return stop.code


def results(folder: Path) -> np.ndarray:
    """uint8 (n, C, H, W)."""
    return np.load(folder / "samples.npz")["fake"]


def pixels(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file))


# --- What each task promises, in the files that it writes.


@pytest.mark.parametrize("method", ["repaint", "fill"])
def test_inpainting_keeps_every_known_pixel(grey, files, tmp_path, method) -> None:
    chosen = [
        "task=inpaint",
        "image=image.png",
        "mask=mask.png",
        f"task.method._target_=genzoo.diffusion.editing.{method}",
    ]
    assert edit(files, f"run={grey}", *chosen, "n=3", QUICK, f"out={tmp_path}") == 0
    known, image = pixels(files / "mask.png") == 0, pixels(files / "image.png")
    for i, result in enumerate(results(tmp_path)):
        assert np.array_equal(result[0][known], image[known])
        assert (result[0] != image)[~known].any()
        assert np.array_equal(pixels(tmp_path / f"{i:05d}.png"), result[0])
    assert len(results(tmp_path)) == 3
    assert (tmp_path / "grid.png").is_file()
    assert pixels(tmp_path / "strip.png").shape[1] > 3 * pixels(tmp_path / "strip.png").shape[0]


def test_image_i_follows_from_the_seed_alone(grey, files, tmp_path) -> None:
    chosen = [f"run={grey}", "task=inpaint", "image=image.png", "mask=mask.png", QUICK]
    for name, more in {"four": ["n=4"], "two": ["n=2", "batch_size=1"], "other": ["n=1", "seed=1"]}.items():
        assert edit(files, *chosen, *more, f"out={tmp_path / name}") == 0
    four, two, other = (results(tmp_path / name) for name in ("four", "two", "other"))
    assert np.array_equal(four[:2], two)
    assert len(np.unique(np.concatenate([four, other]), axis=0)) == 5


@pytest.mark.parametrize("sampler", [[], ["sampler=heun", "steps=4"], ["spacing=karras"]])
def test_superres_has_the_small_image_as_means(grey, files, tmp_path, sampler) -> None:
    """To a level: each of the four pixels of a mean is rounded to 8 bits."""
    assert edit(files, f"run={grey}", "task=superres", "image=small.png", QUICK, *sampler, f"out={tmp_path}") == 0
    means = results(tmp_path)[:, 0].reshape(-1, 4, 2, 4, 2).mean((2, 4))
    assert np.abs(means - pixels(files / "small.png")).max() <= 1


def test_colourise_keeps_the_grey(colour, files, tmp_path) -> None:
    """To a level, by Pillow's conversion to grey."""
    assert edit(files, f"run={colour}", "task=colourise", "image=image.png", QUICK, f"out={tmp_path}", "n=2") == 0
    for i in range(2):
        result = Image.open(tmp_path / f"{i:05d}.png")
        back = np.asarray(result.convert("L")).astype(int)
        assert np.abs(back - pixels(files / "image.png")).max() <= 1
        assert np.ptp(np.asarray(result).astype(int), axis=2).max() > 10  # and has colours


def test_sdedit_changes_as_much_as_its_strength(grey, files, tmp_path) -> None:
    change = []
    for strength in (0.25, 1.0):
        out = tmp_path / str(strength)
        arguments = ["task=sdedit", "image=image.png", f"strength={strength}", "spacing=log_snr", f"out={out}"]
        assert edit(files, f"run={grey}", *arguments) == 0
        change.append(np.abs(results(out)[:, 0].astype(int) - pixels(files / "image.png")).mean())
    assert change[0] < 10 < 50 < change[1]


def test_the_class_reaches_the_network(colour, files, tmp_path) -> None:
    for y in ("0", "null"):
        arguments = ["task=sdedit", "image=photo.png", f"y={y}", "n=1", f"out={tmp_path / y}"]
        assert edit(files, f"run={colour}", *arguments) == 0
    assert not np.array_equal(results(tmp_path / "0"), results(tmp_path / "null"))


def test_another_size_is_fitted_and_said(grey, files, tmp_path, capsys) -> None:
    assert edit(files, f"run={grey}", "task=sdedit", "image=wide.png", f"out={tmp_path}") == 0
    assert "wide.png is 30x20: scaled and cropped to 8x8" in capsys.readouterr().out
    assert results(tmp_path).shape == (4, 1, 8, 8)


def test_it_writes_beside_the_run_unless_told(grey, files) -> None:
    assert edit(files, f"run={grey}", "task=sdedit", "image=image.png", "n=1") == 0
    written = {path.name for path in (grey / "edited/sdedit").iterdir()}
    assert written == {"00000.png", "grid.png", "samples.npz", "strip.png"}


@pytest.fixture(scope="module")
def models() -> dict[str, HasDenoiser]:
    names = ("ddpm", "ddpm_learned_variance")
    return {name: runs.build(composed(*TINY, f"model={name}", "spacing=log_snr")).eval() for name in names}


@pytest.mark.parametrize("file", SAMPLERS, ids=lambda file: file.stem)
@torch.no_grad()
def test_every_sampler_keeps_measurements_and_known_pixels(file, models) -> None:
    model = models["ddpm_learned_variance" if file.stem == "ddpm_learned" else "ddpm"]
    model.sampler = instantiate(OmegaConf.load(file).sampler)
    image, mask, operator = torch.rand(1, 8, 8) * 2 - 1, torch.rand(1, 8, 8) < 0.5, editing.pooling(2)
    y = operator.forward(image[None])[0]
    restored = Edit(partial(editing.restore, operator=operator, y=y, resamples=2, length=2), image[None], "")
    painted = Edit(partial(editing.repaint, image=image, mask=mask, resamples=2, length=2), image[None], "")
    assert (operator.forward(edited(1, model=model, edit=restored)) - y).abs().max() < 1e-6
    x = edited(1, model=model, edit=painted)
    assert torch.equal(x[:, ~mask], image[~mask][None]) and x.isfinite().all()


def test_strip_puts_images_side_by_side() -> None:
    images = torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    assert strip(images).tolist() == [[[[0, 0, 255, 1, 1, 255, 2, 2]] * 2]]


# --- Tasks that a model was trained for, and those for which there is no other way.


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> Callable[..., Path]:
    """The folder of an untrained model with this condition."""
    return lambda *overrides: build_run(tmp_path_factory.mktemp("told"), *overrides)


@pytest.mark.parametrize("family", ["ddpm", "latent"])
def test_superres_asks_a_model_trained_for_it(family, told, files, tmp_path, capsys) -> None:
    run = told(f"model={family}", "condition=superres", "condition.factor=4")
    arguments = [f"run={run}", "task=superres", "image=small.png", "n=3", QUICK]
    assert edit(files, *arguments, f"out={tmp_path / 'own'}") == 0
    assert "by its training for factor 4" in capsys.readouterr().out
    if family == "ddpm":
        assert edit(files, *arguments, "factor=2", f"out={tmp_path / 'other'}") == 0
        assert "by restore, training-free" in capsys.readouterr().out
    model, small = runs.load(run), read(str(files / "small.png"), (1, 2, 2))
    y = LowResolution((1, 8, 8), 4).of(from_uint8(small).repeat_interleave(4, 1).repeat_interleave(4, 2)[None], None)
    assert np.array_equal(results(tmp_path / "own"), draw(model.sample, 3, y=y.expand(3, -1, -1, -1)).numpy())
    assert not np.array_equal(results(tmp_path / "own"), draw(model.sample, 3, y=0 * y.expand(3, -1, -1, -1)).numpy())
    assert edit(files, *arguments, "y=3", f"out={tmp_path}") == 2
    assert "leave out y" in capsys.readouterr().err


@pytest.mark.parametrize("family", ["ddpm", "latent", "consistency"])
def test_inpainting_asks_a_model_trained_for_it_and_keeps_known_pixels(family, told, files, tmp_path, capsys) -> None:
    run = told(f"model={family}", "condition=inpaint")
    chosen = ["task=inpaint", "image=image.png", "mask=mask.png", f"run={run}"]
    assert edit(files, *chosen, "n=3", f"out={tmp_path / 'image'}") == 0
    assert "by its training" in capsys.readouterr().out
    known, image = pixels(files / "mask.png") == 0, pixels(files / "image.png")
    found = results(tmp_path / "image")
    assert all(np.array_equal(result[0][known], image[known]) for result in found)
    assert len(np.unique(found, axis=0)) == 3
    other = image.copy()
    other[known] = 255 - other[known]
    Image.fromarray(other).save(files / "other.png")
    assert edit(files, *chosen[:1], "image=other.png", *chosen[2:], "n=3", f"out={tmp_path / 'other'}") == 0
    # what is filled in follows from the pixels around it
    assert (results(tmp_path / "other")[:, 0, ~known] != found[:, 0, ~known]).any()


def test_layout_makes_images_of_boxes_and_of_a_file(told, files, tmp_path, capsys) -> None:
    run, boxes = told("condition=layout"), "[[7,0.1,0.1,0.5,0.5],[2,0.6,0.5,1,0.9]]"
    (files / "boxes.yaml").write_text(boxes)
    for name, said in {"list": boxes, "file": "boxes.yaml"}.items():
        assert edit(files, f"run={run}", "task=layout", f"boxes={said}", "n=2", f"out={tmp_path / name}") == 0
    assert "by its training on boxes" in capsys.readouterr().out
    assert np.array_equal(results(tmp_path / "list"), results(tmp_path / "file"))
    model = runs.load(run)
    first, second = (layout(None, model, said).y for said in ([[7, 0.1, 0.1, 0.5, 0.5]], [[7, 0.5, 0.5, 1, 1]]))
    assert not torch.equal(*(draw(model.sample, 1, y=y) for y in (first, second)))
    assert pixels(tmp_path / "list/strip.png").shape[1] > 2 * pixels(tmp_path / "list/strip.png").shape[0]
    (tmp_path / "bad.yaml").write_text("[[7,")
    for said, why in (
        ([[7, 0.5, 0.1, 0.2, 0.5]], "a box is [class,x0,y0,x1,y1]"),
        ([[1, 0, 0, 2, 2]], "reach out of the image"),
        ([[1, 0, 0, 1, 1]] * 5, "boxes has 5 boxes for one image: this model takes 4 at most"),
        ("none.yaml", "boxes=none.yaml cannot be read"),
        (str(tmp_path / "bad.yaml"), "bad.yaml cannot be read as YAML"),
    ):
        with pytest.raises(ValueError, match=re.escape(why)):
            layout(None, model, said)
    assert edit(files, f"run={run}", "task=layout", "boxes=[[7,0.1]]", "out=out") == 2
    printed = capsys.readouterr().err
    assert "a box is [class,x0,y0,x1,y1]" in printed and "Traceback" not in printed and not (files / "out").exists()


def test_text_makes_images_of_a_caption(told, files, tmp_path, capsys) -> None:
    run = told("condition=text", "condition.dim=8", "condition.length=40")
    said, model = "a seven left of a two, a six below", runs.load(run)
    assert edit(files, f"run={run}", "task=text", f"prompt={said}", "n=2", f"out={tmp_path}") == 0
    assert "by its training on captions" in capsys.readouterr().out
    assert np.array_equal(results(tmp_path), draw(model.sample, 2, y=caption_bytes([said] * 2, 40)).numpy())
    assert not np.array_equal(results(tmp_path), draw(model.sample, 2, y=caption_bytes(["an eight"] * 2, 40)).numpy())
    with pytest.raises(ValueError, match="40 fit"):
        text(None, model, "a nine below " * 9)


@pytest.mark.parametrize("family", ["ddpm", "latent"])
def test_maps_are_made_of_an_image_or_read_from_a_file(family, told, files, tmp_path, capsys) -> None:
    run = told(f"model={family}", "condition=edges")
    assert edit(files, f"run={run}", "task=maps", "image=image.png", "n=2", f"out={tmp_path / 'image'}") == 0
    assert "by its training on maps" in capsys.readouterr().out
    model, image = runs.load(run), from_uint8(read(str(files / "image.png"), (1, 8, 8)))
    y = Edges((1, 8, 8)).of(image[None], None).expand(2, -1, -1, -1)
    assert np.array_equal(results(tmp_path / "image"), draw(model.sample, 2, y=y).numpy())
    shown = maps(str(files / "image.png"), model, None).given[0, 0].numpy()
    assert np.array_equal(shown, np.where(y[0, 0] > 0, 255, 0))
    # that map as a file asks for the same
    Image.fromarray(shown).save(files / "a=map.png")
    assert edit(files, f"run={run}", "task=maps", "map=a=map.png", "n=2", f"out={tmp_path / 'map'}") == 0
    assert np.array_equal(results(tmp_path / "map"), results(tmp_path / "image"))
    assert edit(files, f"run={run}", "task=maps", "map=mask.png", "n=2", f"out={tmp_path / 'other'}") == 0
    assert not np.array_equal(results(tmp_path / "other"), results(tmp_path / "image"))


def test_maps_of_the_data_are_read_from_a_file(told, files) -> None:
    model = runs.load(told("condition=maps", "condition.channels=3"))
    found = maps(None, model, str(files / "photo.png"))
    assert torch.equal(found.y, known(from_uint8(read(str(files / "photo.png"), (3, 8, 8)))[None]))
    assert found.given.shape == (1, 1, 8, 8)
    for image, file in ((None, None), ("image.png", "map.png"), ("image.png", None)):
        with pytest.raises(ValueError, match="task=maps takes map=FILE, or an image=FILE of which"):
            maps(image, model, file)


def test_frames_show_where_boxes_are() -> None:
    frame = frames(np.array([[1, 0.25, 0.25, 0.75, 0.5], [-1, 0, 0, 0, 0]]), (3, 32, 32))
    assert frame.shape == (3, 32, 32) and frame.dtype == np.uint8
    rows, columns = frame[0].nonzero()
    assert (rows.min(), columns.min(), columns.max()) == (8, 8, 23)


# --- What cannot be done.


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["task=inpaint", "image=image.png"], "mask has no value: add mask=..."),
        (["task=sdedit", "image=none.png"], "Cannot read the image none.png"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments, says, grey, files, capsys) -> None:
    assert edit(files, f"run={grey}", *arguments, "out=out") == 2
    printed = capsys.readouterr().err
    assert says in printed and "Traceback" not in printed
    assert not (files / "out").exists()


@pytest.mark.parametrize(
    ("task", "settings", "says"),
    [
        (inpaint, {"image": "wide.png", "mask": "mask.png"}, "mask.png is 8x8, the image 30x20"),
        (inpaint, {"image": "image.png", "mask": "black.png"}, "no white pixels"),
        (inpaint, {"image": "image.png", "mask": "broken.png"}, "Cannot read the image broken.png"),
        (sdedit, {"image": "broken.png", "strength": 0.5}, "Cannot read the image broken.png"),
        (superres, {"image": "small.png", "factor": 3}, "factor=3 does not divide the model's 8x8"),
        (superres, {"image": "small.png", "factor": 1}, "factor=1 does not divide"),
        (colourise, {"image": "image.png"}, "asks for a model of RGB images"),
    ],
)
def test_tasks_name_what_is_wrong(task, settings, says, files, models, monkeypatch) -> None:
    monkeypatch.chdir(files)
    method = {} if task is sdedit else {"method": editing.restore}
    with pytest.raises(ValueError, match=re.escape(says)):
        task(model=models["ddpm"], **settings, **method)


def test_models_that_cannot_are_refused(models) -> None:
    with pytest.raises(ValueError, match="VAE cannot edit: take a run of a diffusion model"):
        asked(Edit(editing.sdedit, torch.empty(0), ""), runs.build(composed(*TINY, "model=vae")), None)
    with pytest.raises(ValueError, match="2 channels is no pictures"):
        check_pictures(runs.build(composed(*TINY, "data=toy2d")))
    with pytest.raises(ValueError, match="y=0: this model was trained without classes"):
        asked(Edit(None, torch.empty(0), ""), models["ddpm"], 0)
    assert asked(Edit(None, torch.empty(0), ""), models["ddpm"], None) is None
    with pytest.raises(ValueError, match="task=layout asks for a model that is told boxes"):
        layout(None, models["ddpm"], [[7, 0, 0, 1, 1]])
    with pytest.raises(ValueError, match="task=text asks for a model that is told captions"):
        text(None, models["ddpm"], "a seven left of a two")


def test_an_unknown_class_is_refused(colour) -> None:
    with pytest.raises(ValueError, match="y=3: this model knows the classes 0 to 2"):
        asked(Edit(None, torch.empty(0), ""), runs.load(colour), 3)
