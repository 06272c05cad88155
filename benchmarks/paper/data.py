"""The paper's data sets, read from their own folder layouts (`LAYOUTS`); none is downloaded.

Everything a user can put right raises DataError, one line that names the file.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from examples.demo.data import DemoError as DataError
from examples.demo.folder import load_pair, open_picture

from .losses import IGNORED

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")  # in this order, so that x.jpg beside x.png is the image
MASK_SUFFIXES = (".png", ".bmp")
VOC_BORDER = 255  # the label of the pixels around every VOC object that belong to nothing


@dataclass(frozen=True)
class Labelled:
    """images (n, C, H, W) uint8 and labels (n, H, W) uint8 or int8: region ids, or IGNORED where no region is."""

    images: Tensor
    labels: Tensor
    description: str

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> Labelled:
        return Labelled(self.images.to(device), self.labels.to(device), self.description)

    def take(self, index: Tensor) -> Labelled:
        return Labelled(self.images[index], self.labels[index], self.description)


@dataclass(frozen=True)
class Layout:
    """Where the files of a data set lie, relative to the folder given as --data.

    images, masks: folders. names: the file that lists a name a line (without it, all images there are); published: how
    many images the paper counts; partly: images without a mask belong to the folder but not to the data set;
    regions: masks hold region ids, as colours of a palette, and not an object in white.
    """

    images: str
    masks: str
    names: str | None
    published: int
    partly: bool = False
    regions: bool = False


VOC = "VOCdevkit/VOC2012"
LAYOUTS = {
    "MSRA-B": Layout("MSRA-B", "MSRA-B", None, 5000),
    "DUTS-TR": Layout("DUTS-TR/DUTS-TR-Image", "DUTS-TR/DUTS-TR-Mask", "DUTS-TR/train.txt", 10553),
    "DUTS-TE": Layout("DUTS-TE/DUTS-TE-Image", "DUTS-TE/DUTS-TE-Mask", "DUTS-TE/test.txt", 5019),
    "ECSSD": Layout("ECSSD/images", "ECSSD/ground_truth_mask", None, 1000),
    "PASCAL-S": Layout("PASCAL-S/imgs/pascal", "PASCAL-S/masks/pascal", None, 850),
    "HKU-IS": Layout("HKU-IS/imgs", "HKU-IS/gt", "HKU-IS/test.txt", 4447),
    "THUR15k": Layout("THUR15000", "THUR15000", None, 6232, partly=True),
    "DUT-OMRON": Layout("DUT-OMRON/DUT-OMRON-image", "DUT-OMRON/pixelwiseGT-new-PNG", None, 5168),
    "VOC2012-train": Layout(
        f"{VOC}/JPEGImages", f"{VOC}/SegmentationClass", f"{VOC}/ImageSets/Segmentation/train.txt", 1464, regions=True
    ),
    "VOC2012-val": Layout(
        f"{VOC}/JPEGImages", f"{VOC}/SegmentationClass", f"{VOC}/ImageSets/Segmentation/val.txt", 1449, regions=True
    ),
    "texture-train": Layout("texture/images", "texture/masks", "texture/train.txt", 128),
    "texture-test": Layout("texture/images", "texture/masks", "texture/test.txt", 128),
}
SALIENCY = ("MSRA-B", "DUTS-TE", "ECSSD", "PASCAL-S", "HKU-IS", "THUR15k", "DUT-OMRON")  # as in Tables 1 and 2


def find_picture(folder: Path, stem: str, suffixes: Sequence[str]) -> Path | None:
    """The first picture `stem`.suffix in the folder; suffixes may be written in capitals."""
    for suffix in suffixes:
        for path in (folder / f"{stem}{suffix}", folder / f"{stem}{suffix.upper()}"):
            if path.is_file():
                return path
    return None


def read_names(path: Path) -> list[str]:
    """The names in a list file, one a line, without the suffix of a picture; a last line needs no newline."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DataError(f"{path}: no such list file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a list of names ({error})") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise DataError(f"{path}: holds no names")
    stems = [name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in IMAGE_SUFFIXES else name for name in names]
    if len(set(stems)) < len(stems):
        twice = next(stem for index, stem in enumerate(stems) if stem in stems[:index])
        raise DataError(f"{path}: names {twice} twice")
    return stems


def list_images(folder: Path, suffixes: Sequence[str]) -> list[str]:
    """The stems of the images of a folder, sorted."""
    stems = {p.stem for p in folder.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith(".")}
    if not stems:
        raise DataError(f"{folder}: no images ({', '.join(suffixes)}) in this folder")
    return sorted(stems)


def pair_paths(root: Path, layout: Layout) -> list[tuple[Path, Path]]:
    """Image and mask of every name of a data set, in the order of its list."""
    images, masks = root / layout.images, root / layout.masks
    for folder in (images, masks):
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder")
    if layout.names is not None:
        stems = read_names(root / layout.names)
    else:  # in one folder, png files are masks
        stems = list_images(images, IMAGE_SUFFIXES if images != masks else (".jpg", ".jpeg"))
    pairs = []
    for stem in stems:
        image = find_picture(images, stem, IMAGE_SUFFIXES)
        if image is None:
            raise DataError(f"{images / stem}: no image of this name, which is in {root / str(layout.names)}")
        mask = find_picture(masks, stem, MASK_SUFFIXES)
        if mask is not None:
            pairs.append((image, mask))
        elif not layout.partly:
            raise DataError(f"{image}: no mask for this image, there is no {stem}.png in {masks}")
    if not pairs:
        raise DataError(f"{masks}: no mask for any of the {len(stems)} images")
    return pairs


def load_regions(image_path: Path, mask_path: Path, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Read an image (3, size, size) uint8 and its region ids (size, size) int8, VOC_BORDER becoming IGNORED.

    The ids are the palette's indices, resized without interpolation.
    """
    image = open_picture(image_path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(mask_path) as mask:
                mask.load()
    except Exception as error:  # as in `open_picture`: decoders raise a dozen types
        raise DataError(f"{mask_path}: cannot be read as a picture ({error})") from error
    if mask.mode not in ("P", "L"):
        raise DataError(f"{mask_path}: region ids must be stored as a palette or grey picture, got mode {mask.mode}")
    if image.size != mask.size:
        raise DataError(
            f"{mask_path}: the mask is {mask.size[0]} x {mask.size[1]} pixels, "
            f"but its image {image_path.name} is {image.size[0]} x {image.size[1]}"
        )
    ids = np.asarray(mask.resize((size, size), Image.Resampling.NEAREST)).astype(np.int16)
    ids[ids == VOC_BORDER] = IGNORED
    if ids.max() > np.iinfo(np.int8).max:
        raise DataError(f"{mask_path}: region ids must be at most 127, or {VOC_BORDER} for borders, got {ids.max()}")
    pixels = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(pixels).transpose(2, 0, 1), ids.astype(np.int8)


def load(name: str, root: Path, size: int = 256) -> Labelled:
    """Read a data set of LAYOUTS whole: images (n, 3, size, size) uint8, and labels (n, size, size).

    Labels are uint8, 1 on the object, for saliency and texture sets; int8 class ids with IGNORED borders for VOC.

    Raises:
        DataError: for a missing folder, list, image or mask, an unreadable file, or a mask of another size than its image.
        ValueError: for an unknown name.
    """
    if name not in LAYOUTS:
        raise ValueError(f"load: name must be one of {', '.join(LAYOUTS)}, got {name!r}")
    layout = LAYOUTS[name]
    read = load_regions if layout.regions else load_pair
    pairs = pair_paths(root, layout)
    with tqdm(pairs, desc=f"reading {name}", unit="pair", leave=False) as bar:
        loaded = [read(image, mask, size) for image, mask in bar]
    images, labels = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*loaded, strict=True))
    if labels.dtype == torch.bool:
        labels = labels.to(torch.uint8)
    return Labelled(images, labels, f"{name}: {len(pairs)} images (the paper: {layout.published})")


def divide(data: Labelled, share: float, seed: int) -> tuple[Labelled, Labelled]:
    """Split by a shuffle that the seed decides; the first part has round(share * n) images, at least 1, and not all.

    The paper splits MSRA-B 6:4; its list of files is not published.

    Raises:
        ValueError: for fewer than two images or a share outside (0, 1).
    """
    if len(data) < 2:
        raise ValueError(f"divide: data must have at least 2 images, got {len(data)}")
    if not 0 < share < 1:
        raise ValueError(f"divide: share must lie between 0 and 1, got {share}")
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed)).to(data.images.device)
    first = min(max(round(share * len(data)), 1), len(data) - 1)
    return data.take(order[:first]), data.take(order[first:])
