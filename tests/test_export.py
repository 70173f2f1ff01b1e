"""Models to share: the files say what they must and no more, give equal samples, and are refused when damaged."""

import hashlib
import json
import shutil
import sys
from importlib import import_module
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from genzoo import export, runs
from genzoo.command import conf_folder, plain
from genzoo.generator import Generator
from genzoo.run import finish

TINY = [
    "budget.images=256",
    "budget.checks=1",
    "metrics.n=32",
    "metrics.n_likelihood=16",
    "callbacks.judge.n=16",
    "trainer=cpu",
]
MODELS = sorted(path.stem for path in Path(conf_folder(), "model").glob("*.yaml"))
ORIGIN = {"family": "f", "sampling": "10 steps", "overrides": ["model=vae", "data.path=/home/me", "+data.token=hf_1"]}
RECORD = {"protocol_id": "p", "scores": {}, "provenance": ORIGIN}


def samples(model: Generator, n: int = 3) -> torch.Tensor:
    torch.manual_seed(1)
    return model.eval().sample(n)


def composed(*overrides: str) -> dict:
    with initialize_config_dir(config_dir=conf_folder(), version_base="1.3"):
        return plain(compose("config", overrides=["model=vae", "width=8", *overrides]))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("run")
    finish(composed(f"folder='{folder}'", *TINY), folder, ["model=vae", "data.root=/home/me", "+a.token=t"])
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model to share."""
    folder, config = tmp_path_factory.mktemp("written"), composed("folder=unused")
    export.write(folder, runs.build(config), config, RECORD)
    return folder


@pytest.fixture
def shared(written: Path, tmp_path: Path) -> Path:
    """The same in a folder that a test may spoil."""
    return shutil.copytree(written, tmp_path / "shared")


@pytest.mark.parametrize("name", MODELS)
def test_every_family_gives_equal_samples(name: str, settings, tmp_path: Path) -> None:
    config = settings(f"model={name}", "width=8", "blocks=1", "steps=2")
    model = runs.build(config)
    for value in model.state_dict().values():  # where layers start at 0 or 1 the weights would not show
        if value.is_floating_point():
            value.add_(0.01 * torch.randn_like(value))
    model.images_seen = 7
    export.write(tmp_path, model, config, RECORD)
    assert "run_dir" not in (tmp_path / "config.json").read_text()  # a first stage comes along
    loaded = export.load(tmp_path)
    assert type(loaded) is type(model) and loaded.images_seen == 7 and not loaded.training
    state = loaded.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert torch.equal(samples(loaded), samples(model)) and samples(loaded).std() > 0


def test_the_command_writes_the_averaged_weights_and_the_scores(run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    out = tmp_path / "to share"
    monkeypatch.setattr(sys, "argv", ["genzoo.export", f"run={run}", f"out={out}"])
    monkeypatch.chdir(tmp_path)
    import_module("genzoo.export").main()
    assert f"vae on digits -> {out}" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {"model.safetensors", "config.json", "README.md", "samples.png"}
    assert torch.equal(samples(export.load(out)), samples(runs.load(run)))
    assert (out / "samples.png").read_bytes() == (run / "samples.png").read_bytes()
    content, record = json.loads((out / "config.json").read_text()), runs.finished(run)
    assert content["scores"] == record["scores"] and content["protocol"] == record["protocol"]
    assert content["images_seen"] == 256 and content["settings"]["data"]["image_shape"] == [1, 8, 8]
    assert content["provenance"]["config_hash"] == record["provenance"]["config_hash"]
    readme, score = (out / "README.md").read_text(), record["scores"]["FD-digits"]
    low, high = score["ci95"]
    assert readme.startswith("# vae on digits\n") and "genzoo.load(" in readme
    assert f"| FD-digits | {score['value']:.4g} | {low:.4g} to {high:.4g} | 32 |" in readme


def test_nothing_of_the_machine_is_shared(run: Path, tmp_path: Path) -> None:
    record = runs.finished(run)
    record["provenance"]["overrides"].append("+other.secret=hf_1")  # of a run from before these were refused
    export.write(tmp_path / "out", runs.load(run), runs.read_settings(run), record)
    for path in (tmp_path / "out").iterdir():
        raw = path.read_bytes()
        for private in (b"/home", b"hf_1", str(run).encode(), str(Path.home()).encode() + b"/", b"data.root"):
            assert private not in raw, (path.name, private)
    assert "model=vae" in (tmp_path / "out/README.md").read_text()


def test_weights_are_known_to_others(shared: Path) -> None:
    """safetensors itself reads them; names and shapes are the model's."""
    weights = safetensors.torch.load_file(shared / "model.safetensors")
    state = export.load(shared).state_dict()
    assert {name: value.shape for name, value in weights.items()} == {name: v.shape for name, v in state.items()}


class Tied(nn.Module):
    """Two names of one tensor, and a view that is not contiguous."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
        self.b.weight = self.a.weight
        self.register_buffer("turned", torch.arange(6.0).view(2, 3).T)
        self.register_buffer("part", self.turned[:1])


def test_shared_tensors_are_written_apart() -> None:
    model = Tied()
    back = safetensors.torch.load(safetensors.torch.save(export.separate(model.state_dict())))
    assert all(torch.equal(back[name], value) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="extra of the model's state is no tensor"):
        export.separate({"extra": [1]})


def damage(folder: Path, name: str, change) -> None:
    path = folder / name
    path.write_bytes(change(bytearray(path.read_bytes())))


def edit(folder: Path, **changes: object) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | changes))


def flipped(raw: bytearray) -> bytearray:
    raw[len(raw) // 2] ^= 1
    return raw


MODEL, CONFIG = "model.safetensors", "config.json"


@pytest.mark.parametrize(
    "spoil, kind, words",
    [
        (lambda f: (f / MODEL).unlink(), FileNotFoundError, "model.safetensors is missing: fetch"),
        (lambda f: (f / CONFIG).unlink(), FileNotFoundError, "config.json is missing: fetch"),
        (lambda f: damage(f, MODEL, flipped), ValueError, "model.safetensors has not the sha256 in config.json"),
        (lambda f: damage(f, MODEL, lambda raw: raw[:-9]), ValueError, "has not the sha256"),
        (lambda f: damage(f, MODEL, lambda raw: b""), ValueError, "has not the sha256"),
        (lambda f: damage(f, CONFIG, lambda raw: raw[:-9]), ValueError, "config.json is no JSON"),
        (lambda f: damage(f, CONFIG, lambda raw: b"\xff\xfe\x00"), ValueError, "config.json is no JSON"),
        (lambda f: damage(f, CONFIG, lambda raw: b"[" * 100_000), ValueError, "config.json is no JSON"),
        (lambda f: damage(f, CONFIG, lambda raw: b"[1]"), ValueError, "is of format None, this genzoo reads 1"),
        (lambda f: edit(f, format=2), ValueError, "is of format 2, this genzoo reads 1"),
        (lambda f: edit(f, settings={"model": {}}), ValueError, "config.json lacks data"),
        (lambda f: edit(f, settings=[]), ValueError, "config.json lacks data"),
        (lambda f: damage(f, CONFIG, lambda raw: b'{"format": 1}'), ValueError, "config.json lacks images_seen"),
    ],
)
def test_damaged_folders_are_refused_in_one_sentence(spoil, kind: type, words: str, shared: Path) -> None:
    spoil(shared)
    assert export.is_shared(shared)
    with pytest.raises(kind, match=words):
        export.load(shared)


def test_weights_of_another_model_are_named(shared: Path, settings) -> None:
    wider = settings("model=vae", "width=16")
    content = json.loads((shared / CONFIG).read_text())
    edit(shared, settings=content["settings"] | {"model": wider["model"]})
    with pytest.raises(ValueError, match=r"model\.safetensors does not fit the model of config\.json"):
        export.load(shared)


def test_a_pickle_with_the_right_sha256_is_no_safetensors(shared: Path) -> None:
    torch.save({"a": torch.ones(1)}, shared / MODEL)
    edit(shared, sha256=hashlib.sha256((shared / MODEL).read_bytes()).hexdigest())
    with pytest.raises(ValueError, match=r"model\.safetensors is no safetensors file"):
        export.load(shared)


def test_code_in_a_shared_config_is_refused(shared: Path) -> None:
    canary = shared / "ran"
    content = json.loads((shared / CONFIG).read_text())
    hostile = {"_target_": "os.system", "_args_": [f"touch '{canary}'"]}
    edit(shared, settings={**content["settings"], "model": content["settings"]["model"] | {"head": hostile}})
    for allow in ((), ["mypackage"]):
        with pytest.raises(ValueError, match=r"model\.head\._target_=os\.system may not be called"):
            export.load(shared, allow=allow)
    assert not canary.exists()


def test_a_run_folder_is_neither_overwritten_nor_mistaken(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a run folder"):
        export.write(run, runs.load(run), runs.read_settings(run), runs.finished(run))
    assert not export.is_shared(run) and not export.is_shared(tmp_path)


def test_text_in_a_card_stays_in_its_place(shared: Path, settings) -> None:
    config = settings("model=vae", "width=8")
    config["data"]["name"] = "x |\n# <script>alert(1)</script>`"
    export.write(shared, runs.build(config), config, RECORD)
    text = (shared / "README.md").read_text()
    assert "<script>" not in text and "# vae" not in text and text.count("\n# ") == 0
    assert text.startswith("# f on x \\| # &lt;script&gt;")
