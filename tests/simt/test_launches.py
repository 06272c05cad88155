"""How many kernels run, and that the loss is the same whoever computes it."""

from collections import Counter

import pytest
import torch

from cas_ext import ops
from simt import emulated

from .specialisations import IGNORED, MOST_ARRIVALS, RESULTS, SMALL_PIXELS, Case, images

pytestmark = pytest.mark.usefixtures("fresh_counters", "unchecked_where_large")

MEAN = ops.REDUCTIONS["mean"]
SOME = Case("any", torch.float32, torch.uint8, False, 2, 2, 16)
SEVERAL_BLOCKS = 2 * SMALL_PIXELS[0] // SOME.width + 5  # rows
MANY = "more images than an arrival word counts"
INPUTS = {  # name -> how to make (input, target), num_regions
    "one block": (SOME.tensors, 2),
    "several blocks": (lambda: SOME.tensors(SEVERAL_BLOCKS), 2),
    "matrix": (Case("any", torch.float32, torch.uint8, True, 9, 5, 16).tensors, 5),
    "table": (Case("any", torch.float64, torch.uint8, True, 9, 5, 16).tensors, 5),
    "table of many regions": (Case("any", torch.bfloat16, torch.int16, False, 5, 800, 16).tensors, 800),
    "no image": (lambda: images(0, torch.float32), 3),
    MANY: (lambda: images(MOST_ARRIVALS + 1, torch.float32), 3),
}


@pytest.fixture
def unchecked_where_large(request):
    """4096 images take half a minute where every access is checked."""
    emulated.kernels().checked(MANY not in request.node.name)
    yield
    emulated.kernels().checked(True)


def launches(call) -> Counter[str]:
    """Kernels that run during the call, without their template arguments."""
    before = Counter(emulated.kernels().kernels_run())
    call()
    return Counter(
        name.removeprefix("cas_ext::").split("<")[0]
        for name in (Counter(emulated.kernels().kernels_run()) - before).elements()
    )


def forward(name: str, reduction: int) -> dict[str, torch.Tensor]:
    make, regions = INPUTS[name]
    results = emulated.forward(*make(), regions, IGNORED, False, 0, 0.3, ops.PAIRS["mean"], reduction)
    return dict(zip(RESULTS, results, strict=True))


@pytest.mark.parametrize(
    ("name", "kernels"),
    [
        ("one block", ["accumulate_small_kernel"]),
        ("several blocks", ["accumulate_small_kernel"]),
        ("matrix", ["accumulate_matrix_kernel", "merge_kernel"]),
        ("table", ["accumulate_table_kernel", "merge_kernel"]),
        ("table of many regions", ["accumulate_table_kernel", "merge_kernel"]),
        ("no image", ["reduce_kernel"]),
        (MANY, ["accumulate_small_kernel", "reduce_kernel"]),
    ],
)
def test_loss_of_a_batch_takes_one_launch_where_the_table_is_small_and_two_otherwise(name, kernels):
    assert launches(lambda: forward(name, MEAN)) == Counter(kernels)


def test_gradient_takes_one_launch():
    input, target = SOME.tensors()
    found = forward("one block", MEAN)
    coefficients = (found["scale"], found["center"], found["offset"])
    weight = torch.ones(1).expand(2)
    ran = launches(lambda: emulated.apply(input, target, weight, True, *coefficients, IGNORED))
    assert ran == Counter(["apply_planar_kernel"])


@pytest.mark.parametrize("name", INPUTS)
def test_loss_in_the_last_block_is_that_of_the_phases_one_by_one(name):
    make, regions = INPUTS[name]
    input, target = make()
    moments = emulated.accumulate(input, target, regions, IGNORED, False)
    phases = emulated.finalise(*moments, 0.3, ops.PAIRS["mean"], input.dtype == torch.float64)
    expected = dict(zip(RESULTS, (*phases, *moments), strict=True))
    for reduction, reduce in (("none", None), ("mean", torch.mean), ("sum", torch.sum)):
        for key, value in forward(name, ops.REDUCTIONS[reduction]).items():
            if reduce is None or key not in RESULTS[:3]:
                assert torch.equal(value, expected[key]), (key, reduction)
            else:
                whole = reduce(expected[key].double()) if len(input) else torch.zeros(())
                assert value.shape == () and value.item() == pytest.approx(whole.item(), rel=1e-6), (key, reduction)


@pytest.mark.parametrize("name", ["one block", "several blocks", "matrix", "table"])
def test_whichever_block_is_last_the_loss_is_the_same(name):
    expected = forward(name, MEAN)
    for seed in range(1, 21):
        emulated.kernels().seed(seed)
        for key, value in forward(name, MEAN).items():
            assert torch.equal(value, expected[key]), (key, seed)
