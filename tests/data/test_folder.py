"""A tree of images: any kind of file, any size, fixed splits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genzoo.data.folder import folder
from genzoo.data.pixels import to_pixels

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
