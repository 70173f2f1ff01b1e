"""A tree of images: any kind of file, any size, fixed splits; what is no image stops it or is listed."""

import io
import json
import logging
import os
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from PIL import Image, ImageOps

from genzoo import runs
from genzoo.data.captions import caption_strings
from genzoo.data.folder import folder
from genzoo.data.pixels import to_pixels
from genzoo.run import finish

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def left_red_right_blue(width: int, height: int) -> Image.Image:
    """An RGB image: the left half red, the right half blue."""
    image = Image.new("RGB", (width, height), BLUE)
    image.paste(RED, (0, 0, width // 2, height))
    return image


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Sixty images in three classes, one of them nested, and things that are no images."""
    random = np.random.default_rng(0)
    for label in ("ant", "bee", "cat/small"):
        (tmp_path / label).mkdir(parents=True)
        for i in range(20):
            pixels = random.integers(0, 256, (9 + i, 14, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{i}.png")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "thumb.png").write_bytes(b"no image either")
    return tmp_path


def test_splits_are_disjoint_and_fixed_and_classes_are_folders(tree: Path) -> None:
    splits = folder(str(tree), size=[8, 12], val=0.2, test=0.3)
    assert splits.class_names == ("ant", "bee", "cat")
    x = torch.cat([part.x for part in splits[:3]])
    assert x.shape == (60, 3, 8, 12) and len(x.unique(dim=0)) == 60
    assert (torch.cat([part.y for part in splits[:3]]).bincount() == 20).all()
    Image.new("RGB", (9, 9)).save(tree / "ant" / "added.png")
    again = folder(str(tree), size=[8, 12], val=0.2, test=0.3)
    for before, after in zip(splits[:3], again[:3]):  # a new image moves no other
        old, new = ({image.numpy().tobytes() for image in part.x} for part in (before, after))
        assert old <= new


def test_split_folders_are_respected(tree: Path) -> None:
    (tree / "new" / "train").mkdir(parents=True)
    (tree / "new" / "test").mkdir()
    for label in ("ant", "bee"):
        (tree / label).rename(tree / "new" / ("train" if label == "ant" else "test") / label)
    splits = folder(str(tree / "new"), size=8, val=0.3)
    assert len(splits.train.x) + len(splits.val.x) == 20 and len(splits.test.x) == 20
    assert (splits.train.y == 0).all() and (splits.test.y == 1).all()


def test_a_class_called_train_is_a_class(tree: Path) -> None:
    (tree / "ant").rename(tree / "train")
    assert folder(str(tree), size=8, val=0.2, test=0.3).class_names == ("bee", "cat", "train")


def test_images_in_the_root_have_no_labels(tree: Path) -> None:
    Image.new("L", (9, 9)).save(tree / "lone.jpg")
    splits = folder(str(tree), size=8, channels=1, val=0.2, test=0.3)
    assert splits.class_names is None and splits.train.y is None and splits.train.x.shape[1:] == (1, 8, 8)


def test_mistakes_are_named(tree: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data\.path"):
        folder(str(tree / "nowhere"))
    with pytest.raises(ValueError, match=r"No val images.*raise data\.val"):
        folder(str(tree), val=0.0)
    (tree / "bee" / "broken.png").write_bytes((tree / "bee" / "0.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"bee/broken\.png"):
        folder(str(tree), val=0.2, test=0.3)


def jpeg(size: int = 32) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((size, size), 90).convert("RGB").save(file, "jpeg")
    return file.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes: signature, the header, an empty image chunk, the end."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    parts = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


BAD = {
    "bee/truncated.jpg": (jpeg()[:700], "truncated"),
    "bee/text.png": (b"no image at all", "in no format that Pillow knows"),
    "ant/empty.png": (b"", "in no format that Pillow knows"),
    "cat/bomb.png": (png_that_claims(40_000, 40_000), "exceeds limit"),
}
SHARES = {"size": 8, "val": 0.2, "test": 0.3}


@pytest.mark.parametrize("name", BAD)
def test_one_bad_file_stops_it_with_its_name(tree: Path, name: str) -> None:
    content, said = BAD[name]
    (tree / name).write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"^Cannot read the image {tree / name} \(.*{said}.*\); repair or remove it\.$"
    ):
        folder(str(tree), **SHARES)


def test_bad_files_are_skipped_and_listed(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = folder(str(tree), **SHARES)
    for name, (content, _) in BAD.items():
        (tree / name).write_bytes(content)
    (tree / "ant" / "nowhere.png").symlink_to("nothing")
    (tree / "ant" / "loop.png").symlink_to("loop.png")
    with caplog.at_level(logging.WARNING, "genzoo"):
        skipped = folder(str(tree), **SHARES, on_bad="skip")
    assert skipped.class_names == whole.class_names
    for before, after in zip(whole[:3], skipped[:3]):
        assert torch.equal(before.x, after.x) and torch.equal(before.y, after.y)
    assert all(str(tree / name) in caplog.text for name in (*BAD, "ant/nowhere.png", "ant/loop.png"))
    assert sum(int(record.args[0]) for record in caplog.records) == 6


def test_many_bad_files_have_a_line_each(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    for i in range(40):
        (tree / "ant" / f"bad-{i}.png").write_bytes(b"")
    folder(str(tree), **SHARES, on_bad="skip")
    assert sum(record.message.count("bad-") for record in caplog.records) == 40
    assert max(record.message.count("bad-") for record in caplog.records) == 10


def test_nothing_but_bad_files_is_an_error(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        (tmp_path / split).mkdir()
        for i in range(3):
            Image.new("L", (9, 9)).save(tmp_path / split / f"{i}.png")
    for i in range(3):
        (tmp_path / "val" / f"{i}.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"^All 3 val images in .* are unreadable.*val/0\.png"):
        folder(str(tmp_path), size=8, on_bad="skip")
    with pytest.raises(ValueError, match=r"^data\.on_bad=ignore: choose stop or skip\.$"):
        folder(str(tmp_path), size=8, on_bad="ignore")
    with pytest.raises(ValueError, match=r"^Images have 1 \(grey\) or 3 \(RGB\) channels, not 2\.$"):
        folder(str(tmp_path), size=8, channels=2, on_bad="skip")


def test_folders_pipes_and_loops_are_no_images(tree: Path) -> None:
    plain = folder(str(tree), **SHARES)
    (tree / "ant" / "folder.png").mkdir()
    (tree / "ant" / "again").symlink_to(tree)  # followed, it would never end
    os.mkfifo(tree / "ant" / "pipe.png")  # read, it would wait for ever
    again = folder(str(tree), **SHARES)
    assert all(torch.equal(before.x, after.x) for before, after in zip(plain[:3], again[:3]))


def test_names_in_any_writing(tree: Path) -> None:
    (tree / "ant").rename(tree / "蟻")
    (tree / "bee" / "0.png").rename(tree / "bee" / "Über uns ½.png")
    latin = os.fsdecode(b"caf\xe9")
    (tree / "bee").rename(tree / latin)
    splits = folder(str(tree), **SHARES)
    assert splits.class_names == ("caf\\udce9", "cat", "蟻")
    assert (torch.cat([part.y for part in splits[:3]]).bincount() == 20).all()
    (tree / latin / "bad.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"caf\\udce9/bad\.png") as error:
        folder(str(tree), **SHARES)
    str(error.value).encode()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_what_may_not_be_read_is_named(tree: Path) -> None:
    tree.chmod(0o755)
    locked = {"a": "bee/1.png", "b": "bee"}
    for copy, name in locked.items():
        shutil.copytree(tree, tree / copy, ignore=shutil.ignore_patterns("a"))
        (tree / copy).chmod(0o755)
        (tree / copy / name).chmod(0)
    code = (
        "import os; from PIL import Image; from genzoo.data.folder import folder\n"
        "Image.init()\n"  # while its readers may be imported
        "os.setuid(65534)\n"
        "for copy in 'ab':\n"
        "    try: folder(copy, size=8)\n"
        "    except ValueError as error: print(error)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tree, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    file, place = ran.stdout.splitlines()
    assert file == "Cannot read the image a/bee/1.png (Permission denied); repair or remove it."
    assert place == "b/bee cannot be read (Permission denied): change its rights or move it away."


# --- Captions.


@pytest.fixture
def told(tree: Path) -> Path:
    """The tree with captions that say which image each is: of ants in a table, of bees in lines, of cats in .txt."""
    names = {place: [f"{i}.png" for i in range(20)] for place in ("ant", "bee", "cat/small")}
    rows = "".join(f'{name},"an ant, {name}"\n' for name in names["ant"])
    (tree / "ant" / "metadata.csv").write_text("file_name,text\n" + rows)
    lines = [json.dumps({"file_name": f"bee/{name}", "text": f" ein Bär {name} ", "more": 1}) for name in names["bee"]]
    (tree / "metadata.jsonl").write_text("\n".join([*lines, "", '{"file_name": "../no.png", "text": "elsewhere"}']))
    for name in names["cat/small"]:
        (tree / "cat" / "small" / name).with_suffix(".txt").write_text(f"a cat {name}\n")
    return tree


def test_captions_are_read_from_metadata_and_from_texts_beside(told: Path) -> None:
    plain, said = folder(str(told), **SHARES), folder(str(told), **SHARES, ask="caption", length=20)
    assert said.class_names is None and plain.class_names == ("ant", "bee", "cat")
    names = {"an ant, ": "ant/", "ein Bär ": "bee/", "a cat ": "cat/small/"}
    for before, after in zip(plain[:3], said[:3]):
        assert torch.equal(before.x, after.x) and after.y.shape == (len(after.x), 20) and after.y.dtype == torch.uint8
        for x, caption in zip(after.x, caption_strings(after.y)):
            start = next(start for start in names if caption.startswith(start))
            file = told / (names[start] + caption.removeprefix(start))
            assert np.array_equal(x.numpy(), to_pixels(Image.open(file), (3, 8, 8)))


def test_skipped_images_take_their_captions_along(told: Path) -> None:
    whole = folder(str(told), **SHARES, ask="caption")
    (told / "ant" / "bad.png").write_bytes(b"")
    (told / "ant" / "bad.txt").write_text("no image at all")
    skipped = folder(str(told), **SHARES, ask="caption", on_bad="skip")
    for before, after in zip(whole[:3], skipped[:3]):
        assert torch.equal(before.x, after.x) and torch.equal(before.y, after.y)


def test_metadata_comes_before_a_text_beside(told: Path) -> None:
    (told / "bee" / "0.txt").write_text("not this one")
    said = folder(str(told), **SHARES, ask="caption")
    captions = [caption for part in said[:3] for caption in caption_strings(part.y)]
    assert "ein Bär 0.png" in captions and "not this one" not in captions


WRONG = {
    "cat/small/3.txt": (
        "",
        r"^{tree}/cat/small/3\.png has no caption: write one into 3\.txt beside it or into a metadata",
    ),
    "bee/metadata.jsonl": (
        '{"file": "1.png"}',
        r"^{tree}/bee/metadata\.jsonl cannot be read \(KeyError: 'file_name'\)",
    ),
    "metadata.jsonl": ("[1", r"^{tree}/metadata\.jsonl cannot be read .*it takes lines of .\"file_name\": "),
    "ant/metadata.csv": (
        "file_name\n1.png\n",
        r"^{tree}/ant/metadata\.csv cannot be read .*columns file_name and text",
    ),
    "ant/metadata.jsonl": ('{"file_name": "1.png", "text": 3}', r"^{tree}/ant/metadata\.jsonl cannot be read"),
    "cat/small/4.txt": ("ä" * 51, r"^The caption of {tree}/cat/small/4\.png has 102 bytes: set data\.length=102 cond"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_captions_are_named(told: Path, name: str) -> None:
    content, said = WRONG[name]
    (told / name).write_text(content)
    with pytest.raises(ValueError, match=said.replace("{tree}", str(told))):
        folder(str(told), **SHARES, ask="caption")
    assert folder(str(told), **SHARES).class_names  # no caption is asked for, none is read
    with pytest.raises(ValueError, match=r"^data\.ask=words: choose class, caption or map\.$"):
        folder(str(told), ask="words")


# --- Maps.


@pytest.fixture
def maps(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of maps: of each image its own negative, as another kind of file."""
    place = tmp_path_factory.mktemp("maps")
    for file in tree.rglob("[0-9]*.png"):
        (place / file.relative_to(tree)).parent.mkdir(parents=True, exist_ok=True)
        ImageOps.invert(Image.open(file)).save((place / file.relative_to(tree)).with_suffix(".bmp"))
    return place


@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_has_its_map_resized_and_cropped_alike(tree: Path, maps: Path, channels: int) -> None:
    asked = {"ask": "map", "maps": str(maps), "map_channels": channels, "channels": channels}
    plain, splits = (
        folder(str(tree), size=[8, 12], val=0.2, test=0.3, **more) for more in ({"channels": channels}, asked)
    )
    assert splits.class_names is None
    for before, after in zip(plain[:3], splits[:3]):
        assert torch.equal(after.x, before.x) and after.y.dtype == torch.float32
        assert after.y.shape == (len(after.x), channels, 8, 12)
        negative = 255 - (after.y + 1) * 127.5
        assert (negative - after.x).abs().max() < 1.01  # a grey level's rounding


def test_a_skipped_map_takes_its_image_along(tree: Path, maps: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked = {**SHARES, "ask": "map", "maps": str(maps), "map_channels": 3}
    whole = folder(str(tree), **asked)
    (maps / "bee" / "7.bmp").write_bytes(b"no image at all")
    (tree / "ant" / "3.png").write_bytes(b"no image at all")
    with pytest.raises(ValueError, match=r"^Cannot read the image .*(ant/3\.png|bee/7\.bmp) "):
        folder(str(tree), **asked)
    with caplog.at_level(logging.WARNING, "genzoo"):
        skipped = folder(str(tree), **asked, on_bad="skip")
    assert " map images: " in caplog.text and "bee/7.bmp" in caplog.text
    assert sum(len(part.x) for part in skipped[:3]) == 58 == sum(len(part.y) for part in skipped[:3])
    for before, after in zip(whole[:3], skipped[:3]):
        left = {(x.numpy().tobytes(), y.numpy().tobytes()) for x, y in zip(*before)}
        assert {(x.numpy().tobytes(), y.numpy().tobytes()) for x, y in zip(*after)} <= left


def test_wrong_maps_are_named(tree: Path, maps: Path) -> None:
    asked = {**SHARES, "ask": "map"}
    with pytest.raises(ValueError, match=r"^data\.ask=map needs data\.maps=FOLDER: "):
        folder(str(tree), **asked)
    with pytest.raises(
        FileNotFoundError, match=r"^There are no images below nowhere: set data\.maps to a folder of images"
    ):
        folder(str(tree), **asked, maps="nowhere")
    shutil.copy(maps / "ant" / "5.bmp", maps / "ant" / "5.png")
    with pytest.raises(
        ValueError, match=rf"^{tree}/ant/5\.png has 2 maps, {maps}/ant/5\.bmp and .*/5\.png: keep one\.$"
    ):
        folder(str(tree), **asked, maps=str(maps))
    for file in (maps / "ant").glob("5.*"):
        file.unlink()
    with pytest.raises(
        ValueError, match=rf"^{tree}/ant/5\.png has no map: make {maps}/ant/5\.png, or .*data\.ask=class\.$"
    ):
        folder(str(tree), **asked, maps=str(maps))


def test_a_model_learns_of_maps_from_files(tree: Path, maps: Path, settings, tmp_path_factory) -> None:
    """Its remembered conditions are these maps, in colour as it wants them, behind each where it is known."""
    tiny = ["width=4", "blocks=1", "steps=2", "trainer=cpu", "metrics=none", "budget.images=16", "budget.checks=1"]
    data = ["data=folder", "features=pixels", f"data.path={tree}", f"data.maps={maps}", "data.size=8", "data.ask=map"]
    chosen = ["model=ddpm", "condition=maps", "condition.channels=3", "data.val=0.2", "data.test=0.3"]
    run = tmp_path_factory.mktemp("run")
    config = settings(
        f"folder='{run}'", *chosen, *data, *tiny, "data.batch_size=8", "callbacks.judge.n=4", "model.inversion=2"
    )
    finish(config, run, [])
    model = runs.load(run)
    y = instantiate(config["data"], _convert_="all").split("train").y
    known = {row.numpy().tobytes() for row in torch.cat([y, torch.ones(len(y), 1, 8, 8)], 1)}
    assert {row.numpy().tobytes() for row in model.asks} <= known
    assert model.sample(2, model.asks[:2]).shape == (2, 3, 8, 8)
    with pytest.raises(ValueError, match=r"mirrored images .*: set data\.flip=false$"):
        _ = instantiate(config["data"] | {"flip": True}, _convert_="all").splits


def test_an_image_of_the_right_size_keeps_its_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    assert np.array_equal(to_pixels(Image.fromarray(pixels), (3, 7, 5)), pixels.transpose(2, 0, 1))


def test_the_centre_is_kept_and_the_aspect_too() -> None:
    image = Image.new("RGB", (90, 30), BLUE)
    image.paste(RED, (30, 0, 60, 30))
    centre = to_pixels(image, (3, 10, 10))
    assert (centre[:, :, 3:-3] == np.array(RED)[:, None, None]).all() and (centre[0] > 200).all()
    wide = to_pixels(left_red_right_blue(64, 64), (3, 8, 16))
    assert (wide[0, :, :7] > 250).all() and (wide[2, :, 9:] > 250).all()


def test_exif_orientation_is_undone() -> None:
    image = left_red_right_blue(8, 8)
    image.getexif()[0x0112] = 3  # the camera was upside down
    upright = to_pixels(image, (3, 8, 8))
    assert (upright[2, :, :4] == 255).all() and (upright[0, :, 4:] == 255).all()


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    levels = (np.arange(256) * 257).astype(np.uint16).reshape(16, 16)
    assert np.array_equal(to_pixels(Image.fromarray(levels), (1, 16, 16))[0], np.arange(256).reshape(16, 16))


def test_palette_and_transparency() -> None:
    palette = left_red_right_blue(8, 8).quantize(4)
    assert palette.mode == "P"
    assert np.array_equal(to_pixels(palette, (3, 8, 8)), to_pixels(left_red_right_blue(8, 8), (3, 8, 8)))
    clear = Image.new("RGBA", (4, 4), (*GREEN, 0))
    assert (to_pixels(clear, (3, 4, 4)) == 255).all()
    half = Image.new("LA", (4, 4), (0, 127))
    assert (abs(to_pixels(half, (1, 4, 4)).astype(int) - 128) <= 1).all()


def test_unknown_ranges_and_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="floating-point"):
        to_pixels(Image.new("F", (4, 4)), (1, 4, 4))
    with pytest.raises(ValueError, match="not 2"):
        to_pixels(Image.new("L", (4, 4)), (2, 4, 4))
