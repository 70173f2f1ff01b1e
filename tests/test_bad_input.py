"""What a user may get wrong: each gives one sentence with culprit and remedy, exit code 2, and nothing half-written."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hydra.errors import HydraException
from hydra.utils import instantiate
from PIL import Image

from genzoo import runs
from genzoo.checkpoints import write_sealed
from genzoo.command import DEBUG, command, conf_folder
from genzoo.data.pixels import to_pixels
from genzoo.files import write_whole
from genzoo.suggest import composition_sentence, nearest, refuse_misfits
from tests.conftest import composed

TINY = ["width=4", "budget.images=64", "budget.checks=1", "trainer=cpu"]
RUN, SAMPLE, SCORE, EDIT = "genzoo.run", "genzoo.sample", "genzoo.score", "genzoo.edit"
REPORT, DASHBOARD = "genzoo.report.__main__", "genzoo.dashboard"
FOLDER = "data=folder features=pixels data.size=8"
SDEDIT = "run={ddpm} image={there}/grey.png task=sdedit"
MODELS = {
    "ddpm": ["model=ddpm", "steps=2"],
    "vae": ["model=vae"],
    "classes": ["model=ddpm", "condition=classes", "steps=2"],
    "toy": ["model=ddpm", "data=toy2d", "steps=2"],
}


@contextmanager
def typed(folder: Path, module: str, *arguments: str) -> Iterator[None]:
    """As if `python -m module arguments` had been typed in `folder`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", [module, *arguments])
        patch.delenv("HYDRA_FULL_ERROR", raising=False)
        yield


def ended(folder: Path, module: str, *arguments: str) -> int:
    """The exit code of a command."""
    program = import_module(module)
    with typed(folder, module, *arguments):
        try:
            return getattr(program, "program", program.main)() or 0
        except SystemExit as stop:
            return stop.code


def write_run(folder: Path, *overrides: str) -> Path:
    """A run as it lies there when it is finished, but for training and score."""
    settings = composed(*TINY, *overrides)
    runs.claim(folder, settings)
    model = runs.build(settings)
    checkpoint = {"state_dict": model.state_dict(), "images_seen": 64}
    write_whole(folder / "checkpoints/last.ckpt", partial(write_sealed, checkpoint))
    runs.write_json(folder / runs.METRICS, {"scores": {}, "cost": {}, "provenance": {"overrides": []}})
    return folder


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs, images and files with faults, which no command of this file may change."""
    there = tmp_path_factory.mktemp("there")
    torch.manual_seed(0)
    for name, overrides in MODELS.items():
        write_run(there / name, *overrides)
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(grey).save(there / "grey.png")
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(there / "white.png")
    Image.fromarray(np.full((4, 4), 255, np.uint8)).save(there / "small.png")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(there / "black.png")
    (there / "text.png").write_text("not an image")
    (there / "empty").mkdir()
    for name in ("mixed", "photos"):
        for i in range(40):
            (there / name).mkdir(exist_ok=True)
            Image.fromarray(grey + i).save(there / name / f"{i}.png")
    (there / "mixed/notes.png").write_text("not an image")
    for name, file, content in (
        ("torn_config", "config.yaml", "model: [1, 2"),
        ("torn_metrics", "metrics.json", '{"scores": {'),
    ):
        shutil.copytree(there / "ddpm", there / name)
        (there / name / file).write_text(content)
    for name in ("swapped", "unsaved"):
        shutil.copytree(there / "ddpm", there / name)
    (there / "swapped/checkpoints/last.ckpt").write_bytes((there / "vae/checkpoints/last.ckpt").read_bytes())
    (there / "unsaved/checkpoints/last.ckpt").unlink()
    (there / "studies/broken").mkdir(parents=True)
    (there / "studies/broken/study.yaml").write_text("grid: [1, 2")
    (there / "studies/gridless").mkdir()
    (there / "studies/gridless/study.yaml").write_text("question: what?")
    (there / "not_json").mkdir()
    (there / "not_json/study.json").write_text("{")
    return there


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


CASES = [  # module, arguments, culprit, remedy
    # names that there are not
    (RUN, "model=dppm", "model=dppm", "did you mean ddpm?"),
    (RUN, "sampler=ddimm", "sampler=ddimm", "did you mean ddim"),
    (RUN, "data=digit", "data=digit", "did you mean digits?"),
    (RUN, "metrics=papr", "metrics=papr", "did you mean paper?"),
    (RUN, "features=zzz", "features=zzz", "there are cifar10, digits"),
    (EDIT, "task=sdedi run=x image=y", "task=sdedi", "did you mean sdedit?"),
    (RUN, "sed=1", "sed", "did you mean seed"),
    (RUN, "lr=1e-3", "lr", "or model.optimizer.lr?"),
    (RUN, "model=vae model.betta=2", "model.betta", "did you mean model.beta?"),
    (RUN, "+modle=vae", "+modle=vae", "did you mean model?"),
    (RUN, "model._target_=genzoo.models.diffusion.Difusion", "Difusion", "did you mean Diffusion?"),
    (RUN, "nets.denoiser=genzoo.nets.unnet.UNet", "nets.denoiser", "did you mean unet?"),
    (SAMPLE, "rum={ddpm}", "rum", "did you mean run?"),
    (RUN, "--hlep", "--hlep", "did you mean --help?"),
    (RUN, "model=null", "model=null", "there are autoencoder_kl, autoencoder_vq"),
    (SAMPLE, "--cfg jb", "'jb'", "choose from"),
    # what cannot be read
    (RUN, "model", "'model'", "write model=VALUE"),
    (RUN, "model.beta=[1", "model.beta=[1", "close its brackets"),
    (RUN, "model=vae,gan", "model=vae,gan", "add -m"),
    (RUN, "+model.clip=2", "model.clip", "leave out the +"),
    (SAMPLE, "", "run has no value", "add run="),
    (RUN, "data=folder", "data.path has no value", "add data.path="),
    (EDIT, "run={ddpm} image={there}/grey.png", "mask has no value", "add mask="),
    (RUN, "model=latent", "genzoo: set first_stage=RUN_FOLDER", "autoencoder_kl or autoencoder_vq\n"),
    (
        RUN,
        "model=latent first_stage=nowhere",
        "genzoo: nowhere is not a run folder",
        "give a folder that genzoo.run wrote",
    ),
    (
        RUN,
        "+diffusers=pipeline diffusers.path=nowhere",
        "genzoo: nowhere/scheduler has no",
        "that save_pretrained filled\n",
    ),
    # studies
    (RUN, "-m +study=familys_digits", "familys_digits", "did you mean families_digits"),
    (RUN, "-m +study", "+study names no study", "write +study=NAME"),
    (RUN, "+study=vae_beta", "+study=vae_beta", "add -m"),
    (RUN, "-m +study=broken --config-dir={there}/studies", "study.yaml is no YAML", "mend it"),
    (RUN, "-m +study=gridless --config-dir={there}/studies", "has no grid", "give each key the list"),
    # values of a wrong kind
    (RUN, "seed=-1", "seed=-1", "whole number of at least 0"),
    (RUN, "budget.images=0", "budget.images=0", "whole number of at least 1"),
    (RUN, "budget.minutes=-1", "budget.minutes=-1", "number above 0"),
    (RUN, "width=0", "width=0", "whole number of at least 1"),
    (RUN, "data.batch_size=0", "data.batch_size=0", "whole number of at least 1"),
    (RUN, "model.optimizer.lr=text", "model.optimizer.lr=text", "give a number"),
    (RUN, "trainer.precision=7", "recision 7", "llowed"),
    (RUN, "steps=1001", "steps=1001", "between 1 and the 1000"),
    (RUN, "metrics.n=1", "metrics.n=1", "at least 2"),
    (RUN, "metrics.sets=0", "metrics.sets=0", "at least one"),
    (RUN, "metrics.reference=tests", "metrics.reference=tests", "choose train, val, test"),
    # data
    (RUN, "data.image_shape=[1,9,9] metrics=none", "(1, 8, 8)", "set data.image_shape=[1,8,8]"),
    (RUN, "condition=classes condition.classes=7 metrics=none", "condition.classes=7", "set condition.classes=10"),
    (RUN, f"{FOLDER} data.path=nowhere", "nowhere", "set data.path"),
    (RUN, f"{FOLDER} data.path={{there}}/empty", "empty", "set data.path"),
    (RUN, f"{FOLDER} data.path={{there}}/mixed", "notes.png", "repair or remove"),
    (RUN, f"{FOLDER} data.path={{there}}/photos data.size=0", "0x0 pixels", "at least 1"),
    (RUN, f"{FOLDER} data.path={{there}}/photos +data.colour=1", "colour", "channels"),
    (RUN, "hydra.run.dir={there}/grey.png/x", "grey.png", "is no folder; choose another"),
    (RUN, "data.image_shape=3", "data.image_shape=3", "give a list"),
    # runs
    (SAMPLE, "run=nowhere", "nowhere is not a run folder", "give a folder that genzoo.run wrote"),
    (SAMPLE, "run={unsaved}", "unsaved", "repeat its command"),
    (SAMPLE, "run={swapped}", "last.ckpt", "does not fit the model"),
    (SAMPLE, "run={torn_config}", "config.yaml", "repeat"),
    (SCORE, "run={torn_metrics}", "metrics.json", "repeat its genzoo.run command"),
    (SCORE, "run={ddpm} metrics=none", "metrics=none", "choose another"),
    (SCORE, "run={ddpm} sampler=huen", "sampler=huen", "did you mean heun?"),
    (SCORE, "run={vae} sampler=heun", "VAE has no sampler", "leave out sampler="),
    # samples
    (SAMPLE, "run={ddpm} n=0", "n=0", "at least 1"),
    (SAMPLE, "run={ddpm} n=many", "n=many", "whole number"),
    (SAMPLE, "run={ddpm} steps=-5", "steps=-5", "at least 1"),
    (SAMPLE, "run={ddpm} steps=1001", "steps=1001", "between 1 and the 1000"),
    (SAMPLE, "run={ddpm} device=gpu", "device=gpu", "give auto, cpu"),
    (SAMPLE, "run={ddpm} y=1", "y=1", "leave out y"),
    (SAMPLE, "run={classes} y=10", "y=10", "classes 0 to 9"),
    (SAMPLE, "run={classes} y=-1", "y=-1", "classes 0 to 9"),
    (SAMPLE, "run={classes} y=[]", "y=[]", "leave out y"),
    (SAMPLE, "run={ddpm} guidance.scale=2", "without a condition", "leave out guidance"),
    (SAMPLE, "run={classes} guidance.scale=much", "guidance.scale=much", "give a number"),
    (SAMPLE, "run={ddpm} guide={toy}", "guide=", "1x8x8"),
    (SAMPLE, "run={ddpm} out={there}/grey.png", "out=", "name a folder"),
    (SAMPLE, "run={ddpm} out={there}/grey.png/x", "grey.png/x cannot be written", "is no folder; choose another"),
    (SAMPLE, "run={toy} png=true", "png=true", "leave it out"),
    # edits
    (EDIT, f"{SDEDIT} strength=2", "strength=2", "in (0, 1]"),
    (EDIT, f"{SDEDIT} strength=much", "strength=much", "give a number"),
    (EDIT, "run={ddpm} image={there}/grey.png task=superres factor=3", "factor=3", "8x8"),
    (EDIT, "run={ddpm} image={there}/grey.png task=colourise", "task=colourise", "RGB"),
    (EDIT, "run={ddpm} image={there}/grey.png task=maps", "a run with", "condition=edges, depth"),
    (EDIT, "run={ddpm} image={there}/grey.png mask={there}/small.png", "small.png is 4x4", "make them one size"),
    (EDIT, "run={ddpm} image={there}/grey.png mask={there}/black.png", "black.png", "white pixels"),
    (EDIT, "run={ddpm} image={there}/text.png task=sdedit", "text.png", "repair or remove"),
    (EDIT, "run={ddpm} image=nothing.png task=sdedit", "nothing.png", "No such file"),
    (EDIT, "run={vae} image={there}/grey.png task=sdedit", "VAE cannot edit", "diffusion model"),
    (EDIT, "run={toy} image={there}/grey.png task=sdedit", "2 channels", "grey or RGB"),
    # reports
    (REPORT, "nowhere", "nowhere", "give the output folder"),
    (REPORT, "{there}/empty", "empty", "genzoo.run"),
    (REPORT, "--status nowhere", "nowhere", "-m +study=NAME"),
    (REPORT, "--status {there}/not_json", "study.json", "start the study again"),
    (DASHBOARD, "", "nothing to show", "study=NAME"),
    (DASHBOARD, "study=nowhere", "nowhere", "give the output folder"),
]


@pytest.mark.parametrize(("module", "arguments", "culprit", "remedy"), CASES, ids=lambda s: s.replace("/", ":")[:60])
def test_bad_input_is_one_sentence(
    module: str, arguments: str, culprit: str, remedy: str, there: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    before = files(there)
    names = {folder: there / folder for folder in (*MODELS, "unsaved", "swapped", "torn_config", "torn_metrics")}
    tiny = [*TINY, "metrics.n=8"] if module == RUN and "metrics" not in arguments else TINY if module == RUN else []
    words = [word.format(there=there, **names) for word in arguments.split()]
    last = [t for t in tiny if t.partition("=")[0] not in {w.partition("=")[0] for w in words}]
    assert ended(tmp_path, module, *words, *last) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1, said
    assert culprit in said and remedy in said
    assert files(there) == before
    left = [name for name in files(tmp_path) if name.endswith((".part", ".ckpt", ".npz", "metrics.json"))]
    assert not left


def test_debug_shows_the_traceback_before_the_sentence(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert ended(tmp_path, SAMPLE, "run=nowhere", DEBUG) == 2
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.splitlines()[-1].startswith("genzoo: nowhere is not a run folder")


@pytest.mark.parametrize("file", ["hydra/genzoo.yaml", "hydra/tool.yaml", "edit.yaml", "dashboard.yaml"])
def test_help_names_debug(file: str) -> None:
    content = yaml.safe_load(Path(conf_folder(), file).read_text())
    assert DEBUG in content.get("hydra", content)["help"]["template"]


def test_ctrl_c_ends_with_130(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    @command("sample")
    def main(cfg: object) -> None:
        raise KeyboardInterrupt

    with typed(tmp_path, SAMPLE, "run=x"), pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 130
    assert capsys.readouterr().err == "genzoo: stopped\n"


def test_a_sweep_goes_on_after_a_bad_value(there: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert ended(tmp_path, SAMPLE, "-m", f"run={there}/ddpm", "n=0,2", f"out={tmp_path}/out") == 2
    assert (tmp_path / "out/samples.npz").is_file()
    assert capsys.readouterr().err.splitlines()[-1] == "genzoo: n=0: give a whole number of at least 1"


@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ("spacing=trailin", "did you mean trailing?"),
        ("nets=con", "did you mean conv"),
        ("head=gausian", "did you mean gaussian?"),
        ("trainer=cpus", "did you mean cpu?"),
        ("logger=wandbb", "did you mean wandb?"),
        ("nosuch/group=1", "--cfg job lists them all"),
    ],
)
def test_every_group_suggests_its_options(option: str, remedy: str) -> None:
    with pytest.raises(HydraException) as raised:
        composed(option)
    assert remedy in composition_sentence(raised.value, conf_folder(), "config", [option])


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"scale": "much"}, "top.scale=much: give a number"),
        ({"scale": True}, "top.scale=True: give a number"),
        ({"scael": 1}, "takes no scael; did you mean scale?"),
        ({"_target_": "genzoo.diffusion.guidance.clp"}, "did you mean clip?"),
        ({"_target_": "nosuchpackage.f"}, "cannot be imported: No module named"),
    ],
)
def test_targets_are_checked_before_anything_is_called(changed: dict, says: str) -> None:
    good = {"_target_": "genzoo.diffusion.guidance.classifier_free", "_partial_": True, "scale": 2}
    refuse_misfits({"a": [good, {"b": None}]}, {})
    raw = {"guidance": "${top}", "top": good | changed}
    with pytest.raises(ValueError, match=re.escape(says)):
        refuse_misfits({"guidance": good | changed}, raw)


def test_nearest_names() -> None:
    assert nearest("dppm", ["ddpm", "edm", "vae"]) == ["ddpm"]
    assert nearest("model.optimizer.lrr", ["model.optimizer.lr", "seed"]) == ["model.optimizer.lr"]
    assert nearest("beta", ["model.beta", "seed"]) == ["model.beta"]
    assert nearest("zzz", ["model", "data"]) == []


MODES = {  # of images that must work, and the pixels that Pillow makes of them
    "palette": lambda rgb: rgb.quantize(16),
    "CMYK": lambda rgb: rgb.convert("CMYK"),
    "16 bit": lambda rgb: Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257),
    "alpha": lambda rgb: rgb.convert("RGBA"),
}


@pytest.mark.parametrize("mode", MODES)
def test_uncommon_images_are_data(mode: str, tmp_path: Path) -> None:
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    image = MODES[mode](rgb)
    for i in range(40):
        image.save(tmp_path / f"{i}.{'tif' if mode == 'CMYK' else 'png'}")
    settings = composed("data=folder", "features=pixels", f"data.path={tmp_path}", "data.size=8")
    found = instantiate(settings["data"], _convert_="all").split("train").x[0].numpy()
    expected = rgb.convert("L").convert("RGB") if mode == "16 bit" else image.convert("RGB")
    assert np.array_equal(found, np.asarray(expected).transpose(2, 0, 1))


def test_transparent_pixels_are_white(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, :4, 3] = 255
    found = to_pixels(Image.fromarray(pixels), (3, 8, 8))
    assert (found[..., :4] == 0).all() and (found[..., 4:] == 255).all()


def test_an_rgb_image_is_made_grey_for_a_grey_model_and_that_is_said(
    there: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    rgb.save(tmp_path / "rgb.png")
    arguments = [f"run={there}/ddpm", f"image={tmp_path}/rgb.png", "task=sdedit", "n=1", f"out={tmp_path}/out"]
    assert ended(tmp_path, EDIT, *arguments) == 0
    assert "rgb.png is RGB: its colours are made grey" in capsys.readouterr().out
    strip = np.asarray(Image.open(tmp_path / "out/strip.png").convert("L"))
    factor = strip.shape[0] // 10
    assert abs(int(strip[factor + factor // 2, factor + factor // 2]) - int(np.asarray(rgb.convert("L"))[0, 0])) <= 1


def test_metrics_that_are_torn_are_no_metrics(there: Path) -> None:
    assert runs.finished(there / "torn_metrics") is None
    assert json.loads((there / "ddpm/metrics.json").read_text())
