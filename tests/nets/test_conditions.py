"""Conditions: what they give, what says nothing, what changes nothing, and that networks listen to them."""

import json
import shutil
from functools import partial
from itertools import count

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from scipy import ndimage
from torch import Tensor, nn

from genzoo.nets.conditions import Classes, Condition, Given, Layout, given, on_grid
from genzoo.nets.dit import DiT
from genzoo.nets.maps import Edges, LowResolution, Maps, Masked, masked, rectangles
from genzoo.nets.mlp import Denoiser
from genzoo.nets.text import ClipText, Text, shared_ids, word_ids
from genzoo.nets.unet import UNet
from genzoo.told import dropped

SHAPE = (2, 8, 12)
CONDITIONS = {
    "classes": partial(Classes, 4, 6),
    "layout": partial(Layout, 10, 3, 8),
    "text": partial(Text, 40, 16, slots=12),
    "low resolution": partial(LowResolution, SHAPE, 2),
    "masked": partial(Masked, SHAPE),
    "edges": partial(Edges, SHAPE),
    "maps": partial(Maps, SHAPE, 3),
}
NETS = {"unet": UNet, "dit": DiT, "mlp": Denoiser}
every = pytest.mark.parametrize("name", CONDITIONS)
PAIRS = [(c, n) for c in CONDITIONS for n in NETS if n != "mlp" or CONDITIONS[c]().maps == 0]


def coded(*captions: str, length: int = 40) -> Tensor:
    return torch.tensor([list(caption.encode().ljust(length, b"\0")) for caption in captions], dtype=torch.uint8)


def asked(name: str) -> Tensor:
    """The data's y of two images, or what takes its place."""
    boxes = [[3, 0.1, 0.2, 0.4, 0.6], [7, 0.5, 0.5, 0.9, 1.0], [-1, 0, 0, 0, 0]]
    return {
        "classes": torch.tensor([3, 1]),
        "layout": torch.tensor([boxes, boxes[1:] + boxes[2:]]),
        "text": coded("a seven left of a two", "été"),
        "maps": torch.rand(2, 3, 8, 12),
    }.get(name, torch.tensor([3, 1]))


def raw(condition: Condition, name: str) -> Tensor:
    """The raw condition of two images."""
    torch.manual_seed(3)
    return condition.of(torch.rand(2, *SHAPE) * 2 - 1, asked(name))


def stirred(net: nn.Module) -> nn.Module:
    """Off the zeros at which branches start."""
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net.eval()


@every
def test_widths_are_those_of_what_is_given(name: str) -> None:
    condition = CONDITIONS[name]()
    y = raw(condition, name)
    found = condition(y)
    assert [None if part is None else part.shape[-1] for part in found[:2]] == [
        condition.vector or None,
        condition.tokens or None,
    ]
    assert (found.maps is None) == (condition.maps == 0)
    if condition.maps:
        assert found.maps.shape == (2, condition.maps, *condition.size)
    assert condition.null(2).shape == y.shape and condition.null(2).dtype == y.dtype
    assert not [key for key in condition.state_dict() if "nothing" in key]
    assert given(None, None, 2) == Given(None, None, None)


@pytest.mark.parametrize(("name", "net"), PAIRS)
def test_no_y_is_the_null_bit_for_bit_and_y_is_heard(name: str, net: str) -> None:
    condition = CONDITIONS[name]()
    made = stirred(NETS[net](SHAPE, width=8, condition=condition))
    x, t, y = torch.randn(2, *SHAPE), torch.tensor([3.0, 700.0]), raw(condition, name)
    without = made(x, t)
    assert torch.equal(made(x, t, condition.null(2)), without)
    assert (made(x, t, y) - without).flatten(1).abs().amax(1).min() > 1e-5
    half = torch.stack([y[0], condition.null(1)[0]])  # each image has its own
    torch.testing.assert_close(made(x, t, half)[1], without[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "net"), PAIRS)
def test_training_makes_it_heard(name: str, net: str) -> None:
    condition = CONDITIONS[name]()
    made = NETS[net](SHAPE, width=8, condition=condition)
    optimizer = torch.optim.Adam(made.parameters(), 1e-2)
    x, t, y = torch.randn(2, *SHAPE), torch.zeros(2), raw(condition, name)
    target = torch.randn_like(x)
    for _ in range(3):  # of layers that start at zero the last moves first, then the one before it
        optimizer.zero_grad()
        (made(x, t, y) - target).square().mean().backward()
        optimizer.step()
    assert not [key for key, p in made.named_parameters() if p.grad is None]
    assert not torch.allclose(made(x, t, y), made(x, t), atol=1e-5)


def test_the_order_of_boxes_is_nothing() -> None:
    condition = Layout(10, 4, 16)
    boxes = torch.rand(2, 4, 5).sort(2).values
    boxes[:, :, 0] = torch.tensor([[3, 3, -1, 7], [0, -1, -1, 9]])
    x, t = torch.randn(2, 1, 16, 16), torch.zeros(2)
    for net in (UNet, DiT, Denoiser):
        made = stirred(net((1, 16, 16), width=8, condition=condition)).double()
        found = made(x.double(), t, boxes)
        torch.testing.assert_close(made(x.double(), t, boxes[:, [2, 0, 3, 1]]), found, rtol=0, atol=1e-12)
        moved = boxes.clone()
        moved[:, 0, 1:] = moved[:, 3, 1:]
        assert (made(x.double(), t, moved) - found).abs().max() > 1e-6
        condition.float()


def test_an_unused_slot_says_nothing_of_its_corners() -> None:
    condition = Layout(10, 2, 16)
    y = condition.null(1).clone()
    y[..., 1:] = torch.rand(1, 2, 4)
    assert torch.equal(condition(y).tokens, condition(condition.null(1)).tokens)


def test_padding_bytes_change_nothing() -> None:
    text = Text(40, 16, slots=12).eval()
    y = coded("a seven, left of an Ölfarbe")
    longer = torch.cat([y, torch.zeros(1, 60, dtype=torch.uint8)], 1)
    assert torch.equal(text(y).tokens, text(longer).tokens)
    assert not torch.equal(text(y).tokens, text(coded("a seven, left of an ölfarb")).tokens)
    assert torch.equal(text(y).tokens, text(coded("a seven , left of an ÖLFARBE")).tokens)


def test_padding_is_not_attended_to() -> None:
    """A token's value does not depend on how many slots stand empty behind it."""
    few, many = Text(40, 16, slots=8).eval(), Text(40, 16, slots=20).eval()
    state = few.state_dict()
    state["places"] = torch.cat([state["places"], torch.randn(12, 16)])
    many.load_state_dict(state)
    y = coded("a seven left of a two")
    torch.testing.assert_close(few(y).tokens[:, :7], many(y).tokens[:, :7], rtol=0, atol=1e-5)
    assert torch.equal(many(y).tokens[0, 7:], many.unused.expand(13, -1))


def test_word_order_is_heard() -> None:
    text = Text(40, 16).eval()
    one, other = text(coded("a two left of a seven", "a seven left of a two")).tokens
    assert (one - other).abs().max() > 1e-4


def test_words_are_hashed_by_crc32() -> None:
    """CRC-32 of b"a" is 0xE8B7BE43 (RFC 1952), whatever Python's own salted hash says."""
    assert word_ids(b"a", 4096, 3) == (1, 2 + 0xE8B7BE43 % 4094, 0)
    assert word_ids(b"", 4096, 3) == (1, 0, 0)
    assert len(word_ids(b"a b, c d e", 4096, 5)) == 5
    assert word_ids(b"\xff\xfe broken", 4096, 5)[-1] == 0  # what is no UTF-8 is still a caption


def test_a_new_word_with_an_old_one_s_id_is_found() -> None:
    twin = next(
        word for i in count() if word_ids(word := f"w{i}".encode(), 50, 2) == word_ids(b"seven", 50, 2)
    ).decode()
    old = [b"a seven, left of a two", b"a seven"]
    assert shared_ids([f"A SEVEN {twin}".encode(), b"a two"], old, 50) == [(twin, "seven")]
    assert shared_ids(old, [*old, twin.encode()], 50) == []


@pytest.mark.parametrize("value", [float("nan"), 7])
def test_bad_conditions_are_refused_in_one_sentence(value: float) -> None:
    for condition, y, words in (
        (Classes(4, 6), torch.tensor([4, 0]), "knows the classes 0 to 3"),
        (Classes(4, 6), torch.tensor([-1, 0]), "knows the classes 0 to 3"),
        (Classes(4, 6), torch.zeros(3, dtype=torch.long), r"y of shape \(3,\): 2 images take y of shape \(2,\)"),
        (Layout(10, 3, 8), torch.full((2, 3, 5), 0.5), "boxes of the classes"),
        (Layout(4, 3, 8), asked("layout"), r"knows 0 to 3, and -1 for an unused slot"),
        (Layout(10, 2, 8), asked("layout"), r"\(2, 3, 5\): 2 images take y of shape \(2, 2, 5\)"),
        (Layout(10, 3, 8), asked("layout") * 2, "reach out of the image|knows 0 to 9"),
        (Text(40, 16), asked("text").long(), "torch.uint8"),
        (Text(30, 16), asked("text"), r"\(2, 40\)"),
    ):
        with pytest.raises(ValueError, match=words):
            condition.check(y, 2)
    asking = asked("layout")
    asking[0, 0, 1] = value
    with pytest.raises(ValueError, match="reach out of the image"):
        Layout(10, 3, 8).check(asking, 2)
    for name, make in CONDITIONS.items():
        condition = make()
        condition.check(raw(condition, name), 2)


def test_data_without_the_condition_is_refused() -> None:
    x = torch.zeros(2, *SHAPE)
    with pytest.raises(ValueError, match=r"Classes takes y of shape \(n,\), but the data has none: set condition=none"):
        Classes(4, 6).of(x, None)
    with pytest.raises(
        ValueError, match=r"Layout takes .* \(n, 3, 5\), but the data has \(n, 4, 5\): .*condition.slots"
    ):
        Layout(10, 3, 8).of(x, torch.zeros(2, 4, 5))
    with pytest.raises(ValueError, match=r"Text .* \(n, 40\), but the data has \(n,\): .*ask=caption"):
        Text(40, 16).of(x, torch.tensor([3, 1]))
    with pytest.raises(ValueError, match=r"nets=mlp sees no maps, which Edges gives"):
        Denoiser(SHAPE, 8, condition=Edges(SHAPE))
    with pytest.raises(ValueError, match=r"condition.factor=5 does not divide images of 8x12"):
        LowResolution(SHAPE, 5)


# --- What is made of the image.


def test_low_resolution_is_the_blocks_mean() -> None:
    x = torch.rand(2, 3, 8, 12)
    condition = LowResolution((3, 8, 12), 4)
    y = condition.of(x, None)
    assert y.shape == (2, 4, 2, 3) and (y[:, 3] == 1).all()
    torch.testing.assert_close(y[:, :3], F.adaptive_avg_pool2d(x, (2, 3)))
    shown = given(condition, y, 2, (8, 12)).maps
    assert torch.equal(shown[:, :, ::4, ::4], y) and torch.equal(shown[:, :, 3::4, 3::4], y)


def test_fine_maps_are_folded_onto_the_grid_of_latents() -> None:
    """Every place has the pixels that fall on it as channels; where these run out, zeros."""
    maps = torch.rand(2, 3, 8, 12)
    blocks = maps.numpy().reshape(2, 3, 4, 2, 6, 2).transpose(0, 1, 3, 5, 2, 4).reshape(2, 12, 4, 6)
    assert np.array_equal(on_grid(maps, (4, 6)).numpy(), blocks)
    assert torch.equal(on_grid(maps, (8, 12)), maps)
    odd = on_grid(maps[..., :7, :7], (4, 4))
    assert odd.shape == (2, 12, 4, 4)
    assert torch.equal(F.pixel_shuffle(odd, 2), F.pad(maps[..., :7, :7], (0, 1, 0, 1)))


@pytest.mark.parametrize("net", ["unet", "dit"])
@pytest.mark.parametrize("name", [name for name in CONDITIONS if CONDITIONS[name]().maps])
def test_nets_of_latents_hear_every_pixel(name: str, net: str) -> None:
    condition = CONDITIONS[name]()
    made = stirred(NETS[net]((4, 4, 6), width=8, condition=condition))
    y = raw(condition, name).requires_grad_()
    made(torch.randn(2, 4, 4, 6), torch.tensor([3.0, 700.0]), y).square().sum().backward()
    assert (y.grad != 0).all()


def test_masked_knows_what_it_shows() -> None:
    x = torch.rand(500, 2, 16, 24) + 1
    y = Masked((2, 16, 24)).of(x, None)
    seen = y[:, 2:] == 1
    assert torch.equal(y[:, :2], torch.where(seen, x, 0)) and torch.equal(y[:, 2:], seen.float())
    share = seen.float().mean((1, 2, 3))
    assert share.min() >= 0 and share.max() < 1 and share.std() > 0.1
    assert torch.equal(masked(x, torch.ones_like(seen)), Masked((2, 16, 24)).null(500))  # all is missing: the null


def test_rectangles_are_rectangles() -> None:
    holes = rectangles(torch.zeros(300, 1, 20, 30), 1, 0.25, 0.5)
    assert holes.shape == (300, 1, 20, 30)
    for hole in holes[:, 0].numpy():
        ((rows, columns),) = ndimage.find_objects(hole.astype(int))
        assert hole[rows, columns].all()
        assert 4 <= rows.stop - rows.start <= 11 and 6 <= columns.stop - columns.start <= 16
    counts = [ndimage.label(hole)[1] for hole in rectangles(torch.zeros(300, 1, 40, 40), 3, 0.1, 0.1)[:, 0].numpy()]
    assert set(counts) == {1, 2, 3}


# --- Bookkeeping.


def test_a_share_is_dropped_whatever_the_shape() -> None:
    for name in ("classes", "layout", "text", "maps"):
        condition = CONDITIONS[name]()
        y = raw(condition, name)[:1].expand(4000, *condition.nothing.shape)
        rows = dropped(condition, y, 0.3).flatten(1) if y.dim() > 1 else dropped(condition, y, 0.3)[:, None]
        null = condition.null(4000).reshape(4000, -1)
        gone = (rows == null).all(1)
        assert torch.equal(rows[~gone], y.reshape(4000, -1)[~gone])
        assert gone.double().mean().item() == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / 4000) ** 0.5)


@pytest.mark.parametrize("name", ["none", "classes", "layout", "text", "superres", "inpaint", "edges", "maps"])
@pytest.mark.parametrize("nets", ["conv", "dit"])
def test_configurations_build_and_listen(settings, name: str, nets: str) -> None:
    chosen = settings(f"condition={name}", f"nets={nets}", "width=8", "steps=2")
    model = instantiate(chosen["model"], _convert_="all")
    assert model.classes == (10 if name == "classes" else 0)
    assert (model.condition is None) == (name == "none")
    assert model.sample(2).shape == (2, 1, 8, 8)


# --- CLIP.


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory) -> str:
    """A tiny CLIP text encoder of random weights, whose words are letters."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(c) for c in range(33, 127)]
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    config = transformers.CLIPTextConfig(
        vocab_size=len(vocabulary), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=24, bos_token_id=len(vocabulary) - 2, eos_token_id=len(vocabulary) - 1,
    )  # fmt: skip
    transformers.CLIPTextModel(config).save_pretrained(folder)
    return str(folder)


def test_clip_gives_transformers_hidden_states(clip_folder: str) -> None:
    from transformers import CLIPTextModel, CLIPTokenizer

    condition = ClipText(clip_folder, 40)
    y = coded("a seven", "a two", "a seven")
    found = condition(y).tokens
    tokens = CLIPTokenizer.from_pretrained(clip_folder)(
        ["a seven", "a two", "a seven"], padding="max_length", max_length=24, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        expected = CLIPTextModel.from_pretrained(clip_folder)(**tokens).last_hidden_state
    assert found.shape == (3, 24, 16) == (3, 24, condition.tokens)
    torch.testing.assert_close(found, expected)
    assert torch.equal(found[0], found[2]) and not torch.allclose(found[0], found[1])
    assert torch.equal(condition(y).tokens, found) and len(condition.kept) == 2
    assert not condition.state_dict() and not list(condition.parameters())
    net = stirred(UNet(SHAPE, 8, condition=condition))
    x, t = torch.randn(3, *SHAPE), torch.zeros(3)
    assert torch.equal(net(x, t), net(x, t, condition.null(3)))
    assert not torch.allclose(net(x, t), net(x, t, y), atol=1e-5)


@pytest.mark.parametrize("number", ["", "_2"])
def test_clip_of_a_pipeline_has_its_tokenizer_beside_it(clip_folder: str, number: str, tmp_path) -> None:
    encoder, tokenizer = tmp_path / f"text_encoder{number}", tmp_path / f"tokenizer{number}"
    for folder in (tokenizer, encoder):
        shutil.copytree(clip_folder, folder)
    for name in ("config.json", "model.safetensors"):
        (tokenizer / name).unlink()
    for name in {file.name for file in tokenizer.iterdir()}:
        (encoder / name).unlink()
    y = coded("a seven", "a two")
    assert torch.equal(ClipText(str(encoder), 40)(y).tokens, ClipText(clip_folder, 40)(y).tokens)


def test_clip_that_is_not_there(tmp_path, monkeypatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match=r"no CLIP text encoder .*condition.path"):
        ClipText(str(tmp_path), 40)
