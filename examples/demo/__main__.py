"""Command line of the demo: reads the options, trains once per loss, prints the table and draws the picture."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

import cas_ext
from cas_ext.saliency import select_channel

from .data import Data, DemoError, choose_swapped, swap_labels
from .folder import folder_data
from .losses import all_losses
from .metrics import Scores, score
from .network import SmallFCN
from .picture import save_picture
from .textures import texture_data
from .training import BATCH, NAME_WIDTH, predict, train

MAX_THREADS = 8  # more of them only wait for each other on a network this small
INTERRUPTED = 130  # the exit status of a program stopped by Ctrl-C


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    """Read and check the command line; argparse exits with status 2 where it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo",
        description="Train one small network with three losses on images whose labels are partly swapped, and compare.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--noise", type=float, default=0.5, help="share of training images with swapped labels")
    parser.add_argument("--steps", type=int, default=400, help=f"training steps of {BATCH} images for each loss")
    parser.add_argument("--seed", type=int, default=0, help="fixes images, noise, first weights and batches")
    parser.add_argument("--size", type=int, default=96, help="width and height of the images in pixels; even")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where to train")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder that demo.png is written to")
    parser.add_argument("--images", type=Path, metavar="DIR", help="your own images, instead of textures")
    parser.add_argument("--masks", type=Path, metavar="DIR", help="their masks (object white), paired by file stem")
    options = parser.parse_args(arguments)
    if not 0 <= options.noise <= 1:
        parser.error(f"argument --noise: expected a share from 0 to 1, got {options.noise}")
    if options.steps < 1:
        parser.error(f"argument --steps: expected at least 1, got {options.steps}")
    if options.seed < 0:
        parser.error(f"argument --seed: expected 0 or more, got {options.seed}")
    if options.size < 32 or options.size % 2:
        parser.error(f"argument --size: expected an even number of at least 32, got {options.size}")
    if (options.images is None) != (options.masks is None):
        parser.error("arguments --images and --masks: expected both or neither")
    return options


def choose_device(wanted: str) -> torch.device:
    """The device asked for; `auto` takes the GPU only where both torch and cas_ext can use it."""
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    try:
        probe = torch.full((1, 2, 1), 0.5, device="cuda")
        cas_ext.cas_loss(probe, torch.zeros(1, 1, dtype=torch.uint8, device="cuda"), num_regions=2).item()
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        if wanted == "cuda":
            raise DemoError(f"--device cuda cannot be used: {reason}") from error
        print(f"The GPU is left alone: {reason}\n")
        return torch.device("cpu")
    return torch.device("cuda")


def describe(data: Data, swapped: torch.Tensor, options: argparse.Namespace, device: torch.device) -> None:
    """Say what is about to be trained, on what."""
    channels, size = data.train.images.shape[1], options.size
    parameters = sum(p.numel() for p in SmallFCN(channels).parameters())
    place = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"""\
Data     {data.description}
         {len(data.train)} training, {len(data.validation)} validation and {len(data.test)} test images of \
{size} x {size} pixels
Noise    in {int(swapped.sum())} of the {len(swapped)} training images object and background have their labels swapped;
         validation and test masks are clean
Network  fully convolutional, {parameters:,} parameters; trained once per loss from the same start on the same
         batches, {options.steps} steps of {BATCH} images, on {place}
""")


def print_table(scores: dict[str, Scores], seconds: dict[str, float], count: int) -> None:
    """Print one row per loss, and under them what the columns mean."""
    print(f"\nScores on the {count} test images, against clean masks\n")
    print(f"{'loss':<{NAME_WIDTH}}  F_beta  best F_beta    MAE  training")
    for name, result in scores.items():
        print(
            f"{name:<{NAME_WIDTH}}  {result.f_beta:6.3f}  {result.best_f_beta:11.3f}  {result.mae:5.3f}"
            f"  {seconds[name]:6.1f} s"
        )
    print("""
F_beta       beta^2 = 0.3, per image, then averaged; higher is better. A map S becomes a mask where
             S >= min(2 mean(S), 1), as the field's toolkits do it
best F_beta  the same at the one fixed threshold that suits the loss best
MAE          mean absolute error of the continuous map; lower is better
The salient channel of each network is the one most correlated with the clean validation masks.
""")


def run(options: argparse.Namespace) -> None:
    """Load, train, score and draw; raises DemoError for what the user can put right."""
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DemoError(f"{options.out}: cannot be used as a folder ({error.strerror})") from error
    torch.set_num_threads(min(torch.get_num_threads(), MAX_THREADS))
    print("cas_ext demo: can a network learn to segment from labels that are often swapped?\n")
    device = choose_device(options.device)
    if options.images is None:
        data = texture_data(options.size, options.seed)
    else:
        data = folder_data(options.images, options.masks, options.size, options.seed)
    swapped = choose_swapped(len(data.train), options.noise, options.seed)
    describe(data, swapped, options, device)

    train_split = data.train.to(device)
    labels = swap_labels(data.train.masks, swapped).to(device)
    maps, scores, seconds = {}, {}, {}
    for name, loss in all_losses().items():
        network, seconds[name] = train(name, loss, train_split, labels, options.steps, options.seed)
        channel = select_channel(predict(network, data.validation.images.to(device)), data.validation.masks)
        maps[name] = predict(network, data.test.images.to(device))[:, channel]
        scores[name] = score(maps[name], data.test.masks)
    print_table(scores, seconds, len(data.test))

    path = options.out / "demo.png"
    title = (
        f"Learned from {len(swapped)} images; "
        f"in {int(swapped.sum())} of them the labels of object and background are swapped"
    )
    caption = (
        "Three equal networks, told apart only by their loss, on the first test images, unseen in training. The\n"
        r"number in each map is its own $F_\beta$ (higher is better). White: object, black: background, grey: unsure."
    )
    save_picture(path, data.test, maps, scores, title, caption)
    print(f"Picture: {path}")


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; returns the exit status."""
    options = parse_options(arguments)
    try:
        run(options)
    except DemoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted: nothing was written", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
