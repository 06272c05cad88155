"""The networks: a small FCN that a CPU trains, and the paper's two with a ResNet-101, from torchvision."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from examples.demo.network import SmallFCN

TORCHVISION = ("fcn_resnet101", "deeplabv3_resnet101")
MODELS = ("small", *TORCHVISION)


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
        try:
            network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        except Exception as error:  # unpickling and loading raise half a dozen types
            raise ModelError(f"{weights}: holds no weights for {name} ({first_line(error)})") from error
    return network
