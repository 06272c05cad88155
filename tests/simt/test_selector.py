"""Which kernel runs: csrc/cuda/select.h does what the table in docs/performance.md says, for every kind of memory."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from simt import emulated

from .specialisations import BLOCK_PIXELS, DTYPES, MATRIX_REGIONS, PILOT_CELLS, SMALL_PIXELS, STRIP_CHUNK, STRIP_REGIONS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "performance.md"
IMAGES = 2
SIZES = {dtype: dtype.itemsize for dtype in DTYPES}
WORDS = {"otherwise": "True"}
WAVE = 396  # kWaveBlocks: 3 blocks for each of 132 multiprocessors
HELD = {"accumulate_matrix": 16, "accumulate_bfloat16": 12}  # warps of a multiprocessor, at most: ..._warps_held
WAVE_STRIPS = 12 * 132  # kWaveStrips
BY_PIXELS = ("accumulate_small", "accumulate_strips")  # a thread loads labels of neighbouring pixels together, too


@pytest.fixture(params=[True, False], ids=["tensor cores", "without"])
def tensor_cores(request):
    emulated.kernels().tensor_cores(request.param)
    yield request.param
    emulated.kernels().tensor_cores(True)


def lane(N: int, M: int, interleaved: bool) -> int:
    """Channels of a lane of accumulate_matrix and accumulate_bfloat16, of which a warp has 8 times as many."""
    pairs = interleaved and M % 2 == 0
    return 3 if (17 <= M <= 24 or 65 <= M <= 72) and N <= 32 and not pairs else 2


def pilots(N: int, M: int, interleaved: bool) -> int:
    """Floats that accumulate_matrix keeps of pilots."""
    warp = 8 * lane(N, M, interleaved)
    channels = -(-M // warp) * warp
    return (N + 1) * (channels + (8 if channels % 16 == 0 else 0))


def wave(kernel: str, N: int, M: int) -> int:
    """Blocks that the multiprocessors hold at a time, at most (planar)."""
    if kernel == "accumulate_strips":
        return WAVE_STRIPS
    if kernel not in HELD:
        return WAVE
    return HELD[kernel] // min(-(-M // (8 * lane(N, M, False))), 4) * 132


def marked_table(marker: str) -> list[list[str]]:
    """The rows of a table of the page."""
    text = PAGE.read_text().split(f"<!-- {marker}:begin -->")[1].split(f"<!-- {marker}:end -->")[0]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in text.strip().splitlines()[2:]]


def table() -> list[tuple[str, str, str]]:
    """The rows of the page's table: kernel, condition, which neighbours one thread loads at once."""
    return [
        (kernel, WORDS.get(condition, condition), neighbours)
        for kernel, condition, neighbours, *_ in marked_table("selector")
    ]


def chosen(operator: str, **facts) -> tuple[str, str]:
    """The first row of the page's table that holds."""
    return next(
        (kernel, neighbours)
        for kernel, condition, neighbours in table_rows(operator)
        if eval(condition, {"__builtins__": {}}, facts)  # a row of our own page
    )


def table_rows(operator: str) -> list[tuple[str, str, str]]:
    return [row for row in ROWS if row[0].startswith(operator)]


ROWS = table()


class Memory:
    """An array of pixels at some address; `padding` elements follow each row (planar: channel, else pixel) and image."""

    def __init__(self, size: int, M: int, P: int, interleaved: bool, offset: int, padding: int) -> None:
        self.size, self.M, self.P, self.interleaved = size, M, P, interleaved
        self.address = 4096 + offset * size
        row = (M if interleaved else P) + padding
        self.strides = [row * (P if interleaved else M) + padding, *((1, row) if interleaved else (row, 1))]
        self.touching = padding == 0

    def allows(self, neighbours: str, V: int) -> bool:
        """Whether every load of V such neighbours has an address that is a multiple of its size: tries them all."""
        if neighbours == "none":
            return False
        image, channel, pixel = self.strides
        b = np.arange(IMAGES)[:, None, None] * image
        if neighbours in ("channels", "two channels") and self.interleaved:
            V = 2 if neighbours == "two channels" else V
            starts = b + np.arange(self.P)[:, None] * pixel + np.arange(0, self.M, V)
            whole = self.M % V == 0
        elif neighbours == "elements":
            starts, whole = b + np.arange(0, self.P * self.M, V), self.P * self.M % V == 0 and self.touching
        elif self.interleaved:  # all channels of V pixels
            starts, whole = b + np.arange(0, self.P, V) * pixel, self.P % V == 0 and self.touching and self.M in (2, 4)
        else:
            starts = b + np.arange(self.M)[:, None] * channel + np.arange(0, self.P, V)
            whole = self.P % V == 0
        width = 2 * self.size if neighbours == "two channels" and self.interleaved else 16
        aligned = self.address % 16 == 0 and ((self.address + starts * self.size) % width == 0).all()
        return bool(whole and aligned)


def kinds(dtype):
    """Every kind of array, with addresses of labels."""
    for M, P, interleaved, offset, padding, labels in itertools.product(
        (1, 2, 3, 4, 5, 8, 9, 23, 24), (64, 63), (False, True), (0, 1), (0, 1, 16), (4096, 4097)
    ):
        yield Memory(SIZES[dtype], M, P, interleaved, offset, padding), labels


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_accumulate_runs_the_kernel_that_the_page_names(dtype, tensor_cores):
    wide = 16 // SIZES[dtype]
    seen = set()
    for (memory, labels), N in itertools.product(kinds(dtype), (1, 2, 4, 5, MATRIX_REGIONS, 1000)):
        plan = emulated.kernels().select_accumulate(
            [IMAGES, N, memory.M, memory.P],
            emulated.SCALARS[dtype],
            memory.address,
            memory.strides,
            memory.interleaved,
            labels,
        )
        facts = {"softmax": False, "interleaved": memory.interleaved}
        facts |= {
            "float": dtype == torch.float32,
            "bfloat16": dtype == torch.bfloat16,
            "double": dtype == torch.float64,
        }
        facts |= {"tensor_cores": tensor_cores, "pilots": pilots(N, memory.M, memory.interleaved)}
        kernel, neighbours = chosen("accumulate", N=N, M=memory.M, **facts)
        fits = memory.allows(neighbours, wide) and (kernel not in BY_PIXELS or labels % 16 == 0)
        together = 2 if neighbours == "two channels" and memory.interleaved else wide
        assert (plan["kernel"], plan["V"]) == (kernel, together if fits else 1), vars(memory)
        seen.add((kernel, memory.interleaved, fits))
    kernels = {"small", "table"} | (set() if dtype == torch.float64 else {"strips"})
    products = {torch.float32: {"matrix"}, torch.bfloat16: {"bfloat16"}} if tensor_cores else {}
    kernels |= products.get(dtype, set())
    assert {kernel for kernel, *_ in seen} == {f"accumulate_{name}" for name in kernels}
    assert len(seen) == len(kernels) * 4  # both layouts, with and without wide loads


@pytest.mark.parametrize(
    ("dtype", "regions", "channels", "kernel"),
    [
        (torch.float32, MATRIX_REGIONS, 48, "matrix"),
        (torch.float32, MATRIX_REGIONS + 1, 48, "table"),
        (torch.float32, PILOT_CELLS // 72 - 1, 64, "matrix"),
        (torch.float32, PILOT_CELLS // 72, 64, "table"),
        (torch.float32, 6, 480, "matrix"),
        (torch.float32, 6, 481, "table"),
        (torch.bfloat16, MATRIX_REGIONS, 480, "bfloat16"),
        (torch.bfloat16, MATRIX_REGIONS + 1, 48, "table"),
        (torch.bfloat16, 6, 481, "table"),
        (torch.float32, STRIP_REGIONS, 4, "strips"),
        (torch.float32, STRIP_REGIONS + 1, 4, "table"),
        (torch.float16, 5, 5, "table"),
        (torch.float64, 5, 4, "table"),
    ],
)
def test_what_others_have_no_room_for_goes_to_the_table(dtype, regions, channels, kernel):
    memory = Memory(SIZES[dtype], channels, 1 << 16, False, 0, 0)
    sizes, scalar = [1, regions, channels, memory.P], emulated.SCALARS[dtype]
    plan = emulated.kernels().select_accumulate(sizes, scalar, memory.address, memory.strides, False, 4096)
    assert plan["kernel"] == f"accumulate_{kernel}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_apply_runs_the_kernel_that_the_page_names(dtype):
    wide, seen = 16 // SIZES[dtype], set()
    accumulated = max(4, SIZES[dtype])
    for (memory, labels), softmax, N, misplaced in itertools.product(
        kinds(dtype), (False, True), (2, 5, 1000), (False, True)
    ):
        gradient = Memory(memory.size, memory.M, memory.P, memory.interleaved, int(misplaced), 0)
        plan = emulated.kernels().select_apply(
            [IMAGES, N, memory.M, memory.P],
            emulated.SCALARS[dtype],
            softmax,
            memory.address,
            memory.strides,
            memory.interleaved,
            labels,
            gradient.address,
        )
        # The gradient's strides are the input's here; only its address is its own.
        gradient.strides, gradient.touching = memory.strides, memory.touching
        kernel, neighbours = chosen("apply", N=N, M=memory.M, softmax=softmax, interleaved=memory.interleaved)
        fits = memory.allows(neighbours, wide) and gradient.allows(neighbours, wide)
        fits = fits and (kernel == "apply_interleaved" or labels % 16 == 0)
        assert (plan["kernel"], plan["V"]) == (kernel, wide if fits else 1), vars(memory)
        coefficients = N * (1 + 2 * (memory.M | 1)) * accumulated
        tile = 256 * (1 if memory.interleaved else plan["V"])
        pays = 4 * coefficients <= tile * memory.M * SIZES[dtype]
        room = 49152 - (4 * tile if memory.interleaved else 0)
        assert plan["shared_table"] == (not softmax and pays and coefficients <= room)
        seen.add((kernel, fits, plan["shared_table"]))
    assert len({kernel for kernel, _, _ in seen}) == 4
    assert {kernel for kernel, fits, _ in seen if fits} == {row[0] for row in table_rows("apply") if row[2] != "none"}


@pytest.mark.parametrize("images", [1, 8, 40])
@pytest.mark.parametrize("pixels", [0, 1, 255, 256, 257, 65_536, 1_000_003, 1 << 28])
@pytest.mark.parametrize(("regions", "channels"), [(2, 2), (4, 4), (5, 2), (20, 21), (100, 64), (1000, 32), (1, 4096)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_blocks_share_an_image_and_their_tables_stay_small(dtype, regions, channels, pixels, images):
    memory = Memory(SIZES[dtype], channels, pixels, False, 0, 0)
    plan = emulated.kernels().select_accumulate(
        [images, regions, channels, pixels], emulated.SCALARS[dtype], memory.address, memory.strides, False, 4096
    )
    splits, share = plan["splits"], plan["pixels_per_split"]
    assert splits * share >= pixels > (splits - 1) * share or (pixels, splits) == (0, 1)
    blocks = splits * images
    words = images + 1 + 3 * images  # arrivals, and the images' terms before a reduction
    if plan["kernel"] == "accumulate_small":
        least, most = SMALL_PIXELS
        assert share % least == 0 and least <= share <= most
        assert (
            share == least or share * (blocks - images) < pixels * images
        )  # a wave of blocks, while they are large enough
        assert share == most or blocks <= max(WAVE + images, images)
        assert plan["merge"] == ("none" if splits == 1 else "last block" if splits <= 256 else "kernel")
        if splits == 1:  # one block saw the image: it writes the moments themselves
            assert plan["workspace_bytes"] == 8 * words
            return
    else:
        tile = STRIP_CHUNK if plan["kernel"] == "accumulate_strips" else BLOCK_PIXELS
        assert share % tile == 0 and plan["merge"] == "kernel"
    tables = 8 * regions * (channels + 2) * blocks
    assert plan["workspace_bytes"] == tables + 8 * blocks + 8 * words
    input = images * pixels * channels * SIZES[dtype]
    if plan["kernel"] != "accumulate_small" and splits > 1:
        most = wave(plan["kernel"], regions, channels)
        assert (blocks <= most and tables <= input / 4) or (blocks <= 3 * most and tables <= input / 64)


GRID = {  # images, regions, channels, pixels of each case of benchmarks/speed
    "paper": (40, 2, 2, 256**2),
    "voc": (16, 20, 21, 512**2),
    "embedding": (8, 100, 64, 512**2),
    "superpixel": (4, 1000, 32, 1024**2),
    "tiny": (1, 2, 2, 64**2),
    "huge": (1, 2, 2, 16384**2),
    "volume": (1, 64, 4, 256**3),
}


def test_blocks_and_workspace_of_the_grid_are_what_the_page_says():
    rows = {name: tuple(cells) for name, *cells in marked_table("workspace")}
    assert rows.keys() == GRID.keys()
    for name, (images, regions, channels, pixels) in GRID.items():
        blocks, shares = [], []
        for dtype in (torch.float32, torch.bfloat16):
            memory = Memory(SIZES[dtype], channels, pixels, False, 0, 0)
            plan = emulated.kernels().select_accumulate(
                [images, regions, channels, pixels],
                emulated.SCALARS[dtype],
                memory.address,
                memory.strides,
                False,
                4096,
            )
            blocks.append(str(images * plan["splits"]))
            share = plan["workspace_bytes"] / (images * channels * pixels * SIZES[dtype])
            shares.append(f"{100 * share:.1f}%")
        assert rows[name] == (" / ".join(blocks), " / ".join(shares)), name
