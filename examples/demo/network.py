"""The small fully convolutional network that all three losses train."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CHANNELS = 32
DILATIONS = (1, 2, 4, 8, 1)  # at half resolution: the receptive field is 69 pixels wide


class SmallFCN(nn.Module):
    """(B, channels, H, W) uint8 images -> (B, outputs, H, W) logits; H and W even.

    One convolution halves the resolution, five dilated ones look around, and a transposed one restores the resolution.
    """

    def __init__(self, channels: int, outputs: int = 2) -> None:
        super().__init__()
        layers = [nn.Conv2d(channels, CHANNELS, 5, stride=2, padding=2), nn.ReLU(inplace=True)]
        for dilation in DILATIONS:
            layers += [
                nn.Conv2d(CHANNELS, CHANNELS, 3, padding=dilation, dilation=dilation, bias=False),
                nn.BatchNorm2d(CHANNELS),
                nn.ReLU(inplace=True),
            ]
        self.layers = nn.Sequential(*layers)
        self.head = nn.ConvTranspose2d(CHANNELS, outputs, 4, stride=2, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.float()
        deviation, mean = torch.std_mean(pixels, dim=(1, 2, 3), keepdim=True)
        return self.head(self.layers((pixels - mean) / (deviation + 1)))
