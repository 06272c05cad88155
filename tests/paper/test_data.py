"""Reading the data sets from tiny folders of the published layouts, and the errors that name a file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.paper import data
from benchmarks.paper.data import LAYOUTS, DataError, Labelled, Layout
from benchmarks.paper.losses import IGNORED

SIZE = 12  # pixels of the images made here
STEMS = ("0001", "a.b", "sun_x")


def object_mask(index: int) -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[2 : 6 + index, 3:9] = 255
    return mask


def make(root: Path, layout: Layout) -> None:
    """Three images with masks, and the list without a newline at its end."""
    images, masks = root / layout.images, root / layout.masks
    images.mkdir(parents=True)
    masks.mkdir(parents=True, exist_ok=True)
    for index, stem in enumerate(STEMS):
        Image.new("RGB", (SIZE, SIZE), (10 * index, 0, 0)).save(images / f"{stem}.jpg", quality=100)
        mask = object_mask(index)
        if layout.regions:
            mask = np.where(mask > 0, 15, 0).astype(np.uint8)
            mask[0] = data.VOC_BORDER
            picture = Image.new("P", (SIZE, SIZE))
            picture.putpalette([value * 37 % 256 for value in range(768)])
            picture.putdata(mask.flatten().tolist())
        else:
            picture = Image.fromarray(mask)
        picture.save(masks / f"{stem}.png")
    if layout.names is not None:
        path = root / layout.names
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(STEMS))


def failure(root: Path, name: str) -> str:
    with pytest.raises(DataError) as caught:
        data.load(name, root, SIZE)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", LAYOUTS)
def test_data_set_is_read_from_its_layout(tmp_path: Path, name: str) -> None:
    make(tmp_path, LAYOUTS[name])
    loaded = data.load(name, tmp_path, SIZE)
    assert loaded.images.shape == (3, 3, SIZE, SIZE) and loaded.images.dtype == torch.uint8
    assert [round(red / 10) for red in loaded.images[:, 0].float().mean((1, 2)).tolist()] == [0, 1, 2]
    objects = torch.stack([torch.from_numpy(object_mask(i) > 0) for i in range(3)])
    if LAYOUTS[name].regions:
        assert (loaded.labels[:, 0] == IGNORED).all()
        assert torch.equal(loaded.labels[:, 1:] == 15, objects[:, 1:])
        assert set(loaded.labels.unique().tolist()) == {IGNORED, 0, 15}
    else:
        assert torch.equal(loaded.labels, objects.to(torch.uint8))
    assert loaded.description == f"{name}: 3 images (the paper: {LAYOUTS[name].published})"


def test_published_counts_are_those_of_the_paper() -> None:
    counts = [LAYOUTS[name].published for name in ("DUTS-TR", *data.SALIENCY)]
    assert counts == [10553, 5000, 5019, 1000, 850, 4447, 6232, 5168]


@pytest.mark.parametrize("text", ["a\nb", "a\nb\n", "a.jpg\r\nb.png\r\n", "\ufeffa\n\n  b  \n"])
def test_list_keeps_every_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.txt").write_bytes(text.encode())
    assert data.read_names(tmp_path / "list.txt") == ["a", "b"]


def test_dots_in_names_are_no_suffixes(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("2008_1.5\nx.y.JPG")
    assert data.read_names(tmp_path / "list.txt") == ["2008_1.5", "x.y"]


def test_list_that_names_an_image_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a\nb\na.jpg")
    with pytest.raises(DataError, match=r"list\.txt: names a twice"):
        data.read_names(tmp_path / "list.txt")


@pytest.mark.parametrize("name", [name for name, layout in LAYOUTS.items() if layout.names])
def test_missing_list_is_named(tmp_path: Path, name: str) -> None:
    make(tmp_path, LAYOUTS[name])
    path = tmp_path / str(LAYOUTS[name].names)
    path.unlink()
    assert failure(tmp_path, name) == f"{path}: no such list file"
    path.write_text("\n \n")
    assert failure(tmp_path, name) == f"{path}: holds no names"


@pytest.mark.parametrize("name", ["DUTS-TR", "ECSSD", "MSRA-B", "VOC2012-val"])
def test_missing_mask_is_named(tmp_path: Path, name: str) -> None:
    make(tmp_path, LAYOUTS[name])
    (tmp_path / LAYOUTS[name].masks / "a.b.png").unlink()
    line = failure(tmp_path, name)
    assert line.startswith(f"{tmp_path / LAYOUTS[name].images / 'a.b.jpg'}: no mask") and "a.b.png" in line


def test_missing_image_is_named(tmp_path: Path) -> None:
    make(tmp_path, LAYOUTS["DUTS-TE"])
    path = tmp_path / LAYOUTS["DUTS-TE"].images / "sun_x"
    path.with_suffix(".jpg").unlink()
    assert failure(tmp_path, "DUTS-TE").startswith(f"{path}: no image of this name")


def test_images_without_a_mask_are_no_part_of_thur15k(tmp_path: Path) -> None:
    make(tmp_path, LAYOUTS["THUR15k"])
    (tmp_path / "THUR15000" / "0001.png").unlink()
    assert len(data.load("THUR15k", tmp_path, SIZE)) == 2
    for path in (tmp_path / "THUR15000").glob("*.png"):
        path.unlink()
    assert failure(tmp_path, "THUR15k") == f"{tmp_path / 'THUR15000'}: no mask for any of the 3 images"


@pytest.mark.parametrize("name", ["HKU-IS", "VOC2012-train"])
@pytest.mark.parametrize("part", ["images", "masks"])
def test_unreadable_picture_is_named(tmp_path: Path, name: str, part: str) -> None:
    make(tmp_path, LAYOUTS[name])
    path = tmp_path / getattr(LAYOUTS[name], part) / ("a.b.jpg" if part == "images" else "a.b.png")
    path.write_bytes(path.read_bytes()[:60])
    assert failure(tmp_path, name).startswith(f"{path}: cannot be read as a picture")


@pytest.mark.parametrize("name", ["PASCAL-S", "VOC2012-train"])
def test_size_mismatch_names_the_mask_and_both_sizes(tmp_path: Path, name: str) -> None:
    make(tmp_path, LAYOUTS[name])
    path = tmp_path / LAYOUTS[name].masks / "0001.png"
    Image.new("L", (7, 5)).save(path)
    line = failure(tmp_path, name)
    assert line.startswith(f"{path}: ") and "7 x 5" in line and f"{SIZE} x {SIZE}" in line


def test_colours_are_no_region_ids(tmp_path: Path) -> None:
    make(tmp_path, LAYOUTS["VOC2012-val"])
    path = tmp_path / LAYOUTS["VOC2012-val"].masks / "0001.png"
    Image.new("RGB", (SIZE, SIZE)).save(path)
    assert failure(tmp_path, "VOC2012-val").startswith(f"{path}: region ids must be stored as a palette or grey")
    Image.new("L", (SIZE, SIZE), 200).save(path)
    assert failure(tmp_path, "VOC2012-val").startswith(f"{path}: region ids must be at most 127")


def test_missing_folder_is_named(tmp_path: Path) -> None:
    assert failure(tmp_path, "ECSSD") == f"{tmp_path / 'ECSSD/images'}: no such folder"
    (tmp_path / "MSRA-B").mkdir()
    assert failure(tmp_path, "MSRA-B").startswith(f"{tmp_path / 'MSRA-B'}: no images")


def test_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"load: name must be one of MSRA-B, .* got 'COCO'"):
        data.load("COCO", tmp_path)


def test_divide_gives_every_image_to_one_part() -> None:
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1)
    whole = Labelled(images, images[:, 0], "ten")
    parts = data.divide(whole, 0.6, seed=0)
    assert [len(part) for part in parts] == [6, 4]
    assert sorted(torch.cat([part.images.flatten() for part in parts]).tolist()) == list(range(10))
    assert all(torch.equal(part.images[:, 0], part.labels) for part in parts)
    again, other = (data.divide(whole, 0.6, seed)[0].images.flatten().tolist() for seed in (0, 1))
    assert again == parts[0].images.flatten().tolist() != other
    with pytest.raises(ValueError, match=re.escape("share must lie between 0 and 1, got 1.0")):
        data.divide(whole, 1.0, 0)


def test_the_documentation_has_a_row_for_every_layout() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "paper.md").read_text()
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    table = {row[0]: row[1:] for row in rows if row[0] in LAYOUTS}
    assert table.keys() == LAYOUTS.keys()
    for name, (images, masks, names, published) in table.items():
        layout = LAYOUTS[name]
        assert (images.rstrip("/").removesuffix("/*.jpg"), masks.rstrip("/").removesuffix("/*.png")) == (
            layout.images,
            layout.masks,
        )
        assert names == (layout.names or ("images that have a mask" if layout.partly else "all images"))
        assert int(published) == layout.published
