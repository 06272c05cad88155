"""Training of one network with one loss, and its predictions."""

from __future__ import annotations

import sys
import time

import torch
from torch import Tensor
from tqdm import tqdm

from .data import Split
from .losses import Loss
from .network import SmallFCN

BATCH = 8  # images a step
LEARNING_RATE = 3e-3  # highest rate of the one-cycle schedule
EVALUATION_BATCH = 16  # images; bounds the memory of predictions
REPORT_EVERY = 10  # steps between two looks at the loss, each of which waits for a GPU
NAME_WIDTH = 18  # characters before a progress bar


def bar_interval() -> float:
    """Seconds between two redraws of a progress bar: often on a terminal, seldom in a log file."""
    return 0.2 if sys.stderr.isatty() else 10.0


def train(name: str, loss: Loss, split: Split, labels: Tensor, steps: int, seed: int) -> tuple[SmallFCN, float]:
    """Train a new network on `split.images` and `labels`; returns it and the seconds it took.

    The seed fixes the first weights and the order of images, so that two losses differ in nothing else.
    """
    device = split.images.device
    torch.manual_seed(seed)
    order = torch.Generator().manual_seed(seed)
    network = SmallFCN(split.images.shape[1]).to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps + 1)
    start = time.perf_counter()
    with tqdm(total=steps, desc=f"{name:<{NAME_WIDTH}}", unit="step", mininterval=bar_interval()) as bar:
        for step in range(steps):
            batch = torch.randint(len(split), (BATCH,), generator=order).to(device)
            value = loss(network(split.images[batch]), labels[batch])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
            if step % REPORT_EVERY == 0 or step == steps - 1:
                bar.set_postfix_str(f"loss {value.item():.3f}", refresh=False)
            bar.update()
    return network, time.perf_counter() - start


@torch.no_grad()
def predict(network: SmallFCN, images: Tensor) -> Tensor:
    """Probabilities (n, 2, H, W) on the CPU."""
    network.eval()
    return torch.cat([network(part).softmax(1).cpu() for part in images.split(EVALUATION_BATCH)])
