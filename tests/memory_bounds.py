"""Runs the CPU operators on tensors beside memory that may not be touched: a read beyond them ends this process.

`python tests/memory_bounds.py first|last`: which end of every tensor the forbidden memory is at. tests/test_memory_bounds.py
runs it.
"""

import ctypes
import itertools
import mmap
import sys

import torch

import cas_ext  # noqa: F401

ROOM = 4 << 20
PROT_NONE = 0
OPERATORS = torch.ops.cas_ext


class Guarded:
    """Memory of which the first or the last bytes are next to a page that may not be touched."""

    def __init__(self, side: str) -> None:
        self.side = side
        self.memory = mmap.mmap(-1, ROOM + 2 * mmap.PAGESIZE)
        begin = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        for page in (begin, begin + mmap.PAGESIZE + ROOM):
            assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(page), mmap.PAGESIZE, PROT_NONE) == 0

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """The same values and strides, in this memory."""
        storage = tensor.untyped_storage()
        offset = mmap.PAGESIZE + (0 if self.side == "first" else ROOM - storage.nbytes())
        flat = torch.frombuffer(self.memory, dtype=torch.uint8, count=storage.nbytes(), offset=offset)
        flat.copy_(torch.empty(0, dtype=torch.uint8).set_(storage))
        return flat.view(tensor.dtype).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def masks(pixels: int, regions: int):
    place = torch.arange(pixels)
    yield torch.zeros(pixels, dtype=torch.int64)
    yield place % 2 % regions
    yield place // 13 % regions
    yield torch.randint(regions, (pixels,))
    yield torch.where(place < pixels // 2, -100, torch.randint(regions, (pixels,)))
    yield torch.where(place < pixels // 2, -100, place // 50 % regions)
    yield torch.full((pixels,), -100)


def inputs(pixels: int, channels: int, dtype: torch.dtype):
    yield torch.rand(1, channels, pixels).to(dtype)
    yield torch.rand(1, pixels, channels).to(dtype).mT
    yield torch.rand(1, pixels, channels + 3).to(dtype)[:, :, :channels].mT
    yield torch.rand(1, channels, 1).to(dtype).expand(1, channels, pixels)


def main(side: str) -> None:
    torch.manual_seed(0)
    guarded = [Guarded(side) for _ in range(6)]
    shapes = itertools.product([1, 7, 64, 4101], [1, 2, 3, 4, 6, 8, 9, 21], [1, 2, 5, 40, 100])
    for pixels, channels, regions in shapes:
        for dtype, activation in itertools.product([torch.float32, torch.bfloat16, torch.float64], [0, 1]):
            for input, mask in itertools.product(inputs(pixels, channels, dtype), masks(pixels, regions)):
                acc = torch.float64 if dtype == torch.float64 else torch.float32
                tables = [torch.ones(1), *(torch.rand(1, regions, *rest) for rest in ((), (channels,), (channels,)))]
                tensors = [input, mask[None].to(torch.int16), *(table.to(acc) for table in tables)]
                input, target, *tables = (memory.copy(t) for memory, t in zip(guarded, tensors, strict=True))
                OPERATORS.accumulate(input, target, regions, -100, True, activation)
                OPERATORS.apply(input, target, tables[0], False, *tables[1:], -100, activation)


if __name__ == "__main__":
    main(sys.argv[1])
