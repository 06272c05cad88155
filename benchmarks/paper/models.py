"""The networks: a small FCN that a CPU trains, and the paper's two with a ResNet-101, from torchvision."""

from __future__ import annotations

from pathlib import Path
from textwrap import shorten

import torch
from torch import Tensor, nn

from examples.demo.network import SmallFCN

TORCHVISION = ("fcn_resnet101", "deeplabv3_resnet101")
MODELS = ("small", *TORCHVISION)
SMALLEST_BATCH = {
    "deeplabv3_resnet101": 2
}  # images: it normalises pooled features, of which an image has one a channel

REASON_LENGTH = 160  # characters of a message that may list all parameters


class ModelError(Exception):
    """A network that cannot be built here; its message is one line that says what to do."""


def first_line(error: BaseException) -> str:
    """What an exception says, on one line; its type where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


class Standardised(nn.Module):
    """A torchvision segmentation network for (B, 1 or 3, H, W) uint8 images, each brought to mean 0 and deviation 1.

    Grey images are repeated over the three channels. Returns logits (B, outputs, H, W).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.float()
        deviation, mean = torch.std_mean(pixels, dim=(1, 2, 3), keepdim=True)
        pixels = (pixels - mean) / (deviation + 1)
        return self.network(pixels.expand(-1, 3, -1, -1))["out"]


def _from_torchvision(name: str, outputs: int) -> nn.Module:
    try:
        from torchvision.models import segmentation
    except (ImportError, RuntimeError) as error:  # a torchvision for CUDA meets a PyTorch for CPUs with a RuntimeError
        raise ModelError(
            f"{name} needs torchvision, of the same build as PyTorch {torch.__version__}, which cannot be imported "
            f"({first_line(error)}); install that build, or take the model small"
        ) from error
    return Standardised(getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=outputs))


def build(name: str, channels: int, outputs: int, weights: Path | None = None) -> nn.Module:
    """A new network for (B, channels, H, W) uint8 images that returns (B, outputs, H, W).

    First weights are drawn from PyTorch's global generator, or read from `weights`, a file of a state dict of this network.

    Raises:
        ValueError: for an unknown name, or channels that torchvision's networks do not take.
        ModelError: without a fitting torchvision, or for weights that cannot be read or are of another network.
    """
    if name not in MODELS:
        raise ValueError(f"build: name must be one of {', '.join(MODELS)}, got {name!r}")
    if name in TORCHVISION and channels not in (1, 3):
        raise ValueError(f"build: channels must be 1 or 3 for {name}, got {channels}")
    network = SmallFCN(channels, outputs) if name == "small" else _from_torchvision(name, outputs)
    if weights is not None:
        refusal = f"{weights}: holds no weights for {name}"
        try:
            state = torch.load(weights, map_location="cpu", weights_only=True)
        except Exception as error:  # unpickling raises half a dozen types
            raise ModelError(f"{refusal} ({first_line(error)})") from error
        load(network, state, refusal)
    return network


def load(network: nn.Module, state: dict[str, Tensor], refusal: str) -> None:
    """Give the network the weights of a state dict.

    Raises:
        ModelError: `refusal` and the reason, for anything but a state dict of such a network.
    """
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).splitlines()[:2])  # all that follow name further parameters
        raise ModelError(f"{refusal} ({shorten(reason, REASON_LENGTH)})") from error
