"""More than 2^31 pixels and elements: an index kept in 32 bits would wrap. Needs about 11 GiB; `pytest -m slow` runs it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from devices import on_devices

import cas_ext

PIXELS = 2**31 + 4099
NEEDED = 5 * PIXELS + 2**30  # bytes: int8 labels, float16 input and gradient, and room


def available_bytes(device) -> int:
    """Memory that this process may still take."""
    if device.name == "cuda":
        return torch.cuda.mem_get_info()[0]
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(meminfo["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and limit.read_text().strip() != "max":
        available = min(available, int(limit.read_text()) - int(used.read_text()))
    return available


@pytest.mark.slow
@on_devices("cpu", "cuda")
def test_image_of_more_than_2_to_the_31_pixels(device):
    if device.name == "cpu" and not Path("/proc/meminfo").exists():
        pytest.skip("only Linux says how much memory is free")
    if available_bytes(device) < NEEDED:
        pytest.skip(f"needs {NEEDED / 2**30:.0f} GiB, {available_bytes(device) / 2**30:.0f} GiB are free")

    # Label 0 holds zeros, but for its last pixel; label 1 ones; labels change beyond the reach of 32 bits as well.
    input = torch.zeros(1, 1, PIXELS, dtype=torch.float16, device=device.torch_device)
    target = torch.zeros(1, PIXELS, dtype=torch.int8, device=device.torch_device)
    ones = slice(2**31 - 1000, 2**31 + 3000)
    input[..., ones] = 1.0
    target[:, ones] = 1
    input[..., -1] = 512.0
    input.requires_grad_()

    moments = cas_ext.region_moments(input.detach(), target, 2)
    n = PIXELS - 4000
    assert moments.count.tolist() == [[n, 4000]]
    mean, scatter = 512 / n, 512**2 * (1 - 1 / n)
    assert moments.mean.flatten().tolist() == pytest.approx([mean, 1.0], rel=1e-6)
    assert moments.scatter.flatten().tolist() == pytest.approx([scatter, 0.0], rel=1e-6)

    loss = cas_ext.cas_loss(input, target, num_regions=2)
    assert loss.item() == pytest.approx(0.5 * scatter / n - 0.5 * 2 * (1 - mean) ** 2, rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, input, torch.tensor(2.0**20, device=device.torch_device))
    # Eq. 2 times 2^20, which lifts 1/n out of what float16 flushes to zero: for label 0 the push is positive.
    push = 2 * (1 - mean)
    places = [0, 2**31 - 1001, 2**31 - 1000, 2**31, 2**31 + 2999, 2**31 + 3000, PIXELS - 1]
    of_zero, of_one = 2.0**20 * (-mean + push) / n, -(2.0**20) * push / 4000
    of_last = 2.0**20 * (512 - mean + push) / n
    expected = [of_zero, of_zero, of_one, of_one, of_one, of_zero, of_last]
    assert gradient[0, 0, places].double().tolist() == pytest.approx(expected, rel=1e-3)
