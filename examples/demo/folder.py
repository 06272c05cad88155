"""Images and masks out of two folders: `cat.jpg` in one belongs to `cat.png` in the other."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm import tqdm

from .data import Data, DemoError, Split

SHARES = (0.7, 0.1, 0.2)  # of the images, for training, validation and test
MINIMUM = 10  # images: the least of which these shares leave one to validate and two to test on


def list_pictures(folder: Path) -> dict[str, Path]:
    """The picture files of a folder by stem; other files are passed over."""
    if not folder.is_dir():
        raise DemoError(f"{folder}: no such folder")
    known = Image.registered_extensions()
    pictures: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in known and path.is_file() and not path.name.startswith("."):
            if path.stem in pictures:
                raise DemoError(f"{path}: has the same stem as {pictures[path.stem].name}; keep one of them")
            pictures[path.stem] = path
    if not pictures:
        raise DemoError(f"{folder}: no picture files (png, jpg, bmp, tif, ...) in this folder")
    return pictures


def open_picture(path: Path) -> Image.Image:
    """Read a picture whole, turned as its EXIF orientation says, in mode RGB, L or, from 16 bits, I."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                picture = ImageOps.exif_transpose(file)
                if picture.mode.startswith("I;16"):
                    return picture.convert("I")
                return picture if picture.mode in ("L", "I") else picture.convert("RGB")
    except Exception as error:  # Pillow's decoders raise a dozen types, SyntaxError and struct.error among them
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DemoError(f"{path}: cannot be read as a picture ({reason})") from error


def as_bytes(picture: Image.Image) -> Image.Image:
    """Bring a picture of 16 bits down to 8; others are returned as they are."""
    if picture.mode != "I":
        return picture
    return Image.fromarray((np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8))


def load_pair(image_path: Path, mask_path: Path, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Read an image (3, size, size) uint8 and its mask (size, size) bool, True above half of the range."""
    image, mask = open_picture(image_path), open_picture(mask_path)
    if image.size != mask.size:
        raise DemoError(
            f"{mask_path}: the mask is {mask.size[0]} x {mask.size[1]} pixels, "
            f"but its image {image_path.name} is {image.size[0]} x {image.size[1]}"
        )
    pixels = as_bytes(image).convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    white = as_bytes(mask).convert("L").point(lambda value: 255 * (value > 127))
    white = white.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(pixels).transpose(2, 0, 1), np.asarray(white) > 127


def folder_data(images: Path, masks: Path, size: int, seed: int) -> Data:
    """Load every image of a folder with its mask and split them by a shuffle that the seed decides.

    Raises: DemoError, which names the file, for a missing mask, a size mismatch or an unreadable file.
    """
    image_paths, mask_paths = list_pictures(images), list_pictures(masks)
    for stem, path in image_paths.items():
        if stem not in mask_paths:
            raise DemoError(f"{path}: no mask for this image, there is no picture {stem}.* in {masks}")
    if len(image_paths) < MINIMUM:
        raise DemoError(f"{images}: {len(image_paths)} images are too few, at least {MINIMUM} are needed")

    with tqdm(image_paths.items(), desc="reading pictures", unit="pair", leave=False) as bar:
        pairs = [load_pair(path, mask_paths[stem], size) for stem, path in bar]
    if not any(mask.any() for _, mask in pairs):
        raise DemoError(f"{masks}: no mask has a pixel above half of its range; the object must be white")
    order = np.random.default_rng([seed, 0]).permutation(len(pairs))
    last_train = round(SHARES[0] * len(pairs))
    last_validation = last_train + round(SHARES[1] * len(pairs))
    splits = []
    for chosen in np.split(order, [last_train, last_validation]):
        arrays = zip(*(pairs[index] for index in chosen), strict=True)
        splits.append(Split(*(torch.from_numpy(np.stack(array)) for array in arrays)))
    return Data(*splits, description=f"the images of {images}")
