"""Depth: what transformers' own pipeline of processor, network and post-processing gives, from a local folder."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from genzoo import runs
from genzoo.nets.depth import Depth, size_taken

transformers = pytest.importorskip("transformers")
Processor = getattr(transformers, "DPTImageProcessorPil", None) or transformers.DPTImageProcessor  # before 5
SETTINGS = {"size": {"height": 32, "width": 32}, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny DPT of random weights."""
    torch.manual_seed(0)
    path = str(tmp_path_factory.mktemp("dpt"))
    config = transformers.DPTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8] * 4, fusion_hidden_size=8, is_hybrid=False,
    )  # fmt: skip
    network = transformers.DPTForDepthEstimation(config)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # its head is all but 0 at first
    network.save_pretrained(path)
    Processor(**SETTINGS).save_pretrained(path)
    return path


def theirs(folder: str, image: np.ndarray) -> torch.Tensor:
    """(H, W) depth of an image uint8 (H, W, 3)."""
    processor = Processor.from_pretrained(folder)
    with torch.no_grad():
        network = transformers.DPTForDepthEstimation.from_pretrained(folder)
        said = network(**processor(images=image, return_tensors="pt"))
    return processor.post_process_depth_estimation(said, [image.shape[:2]])[0]["predicted_depth"]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(64, 48), (8, 8)], ids=str)
def test_depth_is_that_of_transformers(folder: str, channels: int, shape: tuple[int, int]) -> None:
    ramp = torch.linspace(0, 255, shape[0])[:, None].expand(shape)
    pixels = torch.stack([ramp, ramp.flip(0), ramp * 0 + 90])[:channels].round().to(torch.uint8)
    expected = theirs(folder, pixels.expand(3, -1, -1).permute(1, 2, 0).numpy())
    expected = 2 * (expected - expected.min()) / (expected.max() - expected.min()) - 1
    condition = Depth(folder, (channels, *shape))
    y = condition.of(torch.stack([pixels / 127.5 - 1] * 17), None)
    assert y.shape == (17, 2, *shape) == (17, *condition.nothing.shape) and (y[:, 1] == 1).all()
    assert expected.std() > 0.1
    # the processor rounds scaled pixels to whole levels
    torch.testing.assert_close(y[-1, 0], expected, atol=0.03, rtol=0)
    assert y[:, 0].amin() == -1 and y[:, 0].amax() == 1
    torch.testing.assert_close(condition.seen(pixels[None] / 127.5 - 1, y[:1]), y[:1])


@pytest.mark.parametrize("told", [{}, {"keep_aspect_ratio": True}, {"ensure_multiple_of": 14}], ids=str)
@pytest.mark.parametrize("shape", [(30, 60), (60, 30), (100, 70), (33, 33)], ids=str)
def test_sizes_are_those_of_their_processor(told: dict[str, object], shape: tuple[int, int]) -> None:
    told = {"size": {"height": 56, "width": 56}, **told}
    made = Processor(**told)(images=np.zeros((*shape, 3), np.uint8), return_tensors="np")
    assert size_taken(told, *shape) == [*made["pixel_values"].shape[2:]]


def test_the_network_is_frozen_and_in_no_checkpoint(folder: str) -> None:
    condition = Depth(folder, (1, 8, 8))
    assert not condition.state_dict() and not list(condition.parameters())
    assert not any(p.requires_grad for p in condition.frozen[0].parameters()) and not condition.frozen[0].training
    x = torch.rand(2, 1, 8, 8, requires_grad=True)
    y = condition.of(x, None)
    assert not y.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(condition.of(x, None), y)


def test_depth_of_one_distance_is_0(folder: str) -> None:
    condition = Depth(folder, (1, 8, 8))
    condition.depth = torch.zeros_like
    assert (condition.of(torch.rand(2, 1, 8, 8), None)[:, 0] == 0).all()


def test_the_configuration_builds_and_listens(settings, folder: str) -> None:
    chosen = settings("model=ddpm", "condition=depth", f"condition.path='{folder}'", "width=8", "blocks=1", "steps=2")
    model, x = runs.build(chosen).train(), torch.rand(4, 1, 8, 8)
    model.loss(x)["loss"].backward()
    assert not model.condition.frozen[0].training
    assert model.sample(2, model.condition.of(x[:2], None)).shape == (2, 1, 8, 8)


def test_what_is_no_depth_network_is_refused(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match=r"no depth network .*condition.path"):
        Depth(str(tmp_path), (1, 8, 8))
    with pytest.raises(ValueError, match="these have 2 channels"):
        Depth(folder, (2, 8, 8))
    with pytest.raises(ValueError, match="take a network of DPT"):
        size_taken({"size": {"shortest_edge": 3}}, 8, 8)
    told = Path(folder, "preprocessor_config.json").read_text()
    (tmp_path / "preprocessor_config.json").write_text(told)
    for content in ({"model_type": "clip"}, {"auto_map": {"AutoModelForDepthEstimation": "evil.Net"}}):
        (tmp_path / "config.json").write_text(json.dumps(content))
        with pytest.raises(FileNotFoundError, match="no depth network"):
            Depth(str(tmp_path), (1, 8, 8))
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (pickled / name).write_text(Path(folder, name).read_text())
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        Depth(str(pickled), (1, 8, 8))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match="pip install transformers"):
        Depth(folder, (1, 8, 8))


def test_a_strangers_code_is_not_run(folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder whose config.json names code of its own is refused without a question."""
    there = shutil.copytree(folder, tmp_path / "theirs")
    config = json.loads((there / "config.json").read_text())
    config |= {"model_type": "odd", "auto_map": {"AutoConfig": "evil.C", "AutoModelForDepthEstimation": "evil.M"}}
    (there / "config.json").write_text(json.dumps(config))
    (there / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(FileNotFoundError, match="There is no depth network"):
        Depth(str(there), (1, 8, 8))
    assert not (tmp_path / "ran").exists()
