"""The CUDA kernels on the emulator: each specialisation is right, single-pass, and the same under every schedule."""

import pytest
import torch

from cas_ext import reference
from simt import emulated

from .specialisations import DTYPES, IGNORED, SMALL_PIXELS, Case, compiled_kernels, every_case, images, run

CASES = every_case()
SEEDS = range(1, 51)
# Relative to the largest element. Half types round the gradient they store; moments are summed in float32 or better.
GRADIENT = {torch.float16: 2e-3, torch.bfloat16: 8e-3, torch.float32: 1e-6, torch.float64: 1e-13}
MOMENTS = {torch.float16: 1e-6, torch.bfloat16: 1e-6, torch.float32: 1e-6, torch.float64: 1e-13}


pytestmark = pytest.mark.usefixtures("fresh_counters")


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-300))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernel_agrees_with_the_reference_and_counts_its_accesses(case, record_property):
    found = run(case)
    input, target = case.tensors()
    s = input.double().requires_grad_()
    descriptors = case.descriptors(s)
    moments = reference.region_moments(descriptors, target, case.regions, ignore_index=IGNORED)
    loss = reference.cas_loss(
        descriptors, target, alpha=0.3, num_regions=case.regions, ignore_index=IGNORED, reduction="none"
    )
    (gradient,) = torch.autograd.grad(loss.sum() * 0.5, s, retain_graph=True)
    assert torch.equal(found["count"], moments.count.long())
    assert relative(found["mean"], moments.mean.detach()) < MOMENTS[case.dtype]
    assert relative(found["scatter"], moments.scatter.detach()) < MOMENTS[case.dtype]
    assert relative(found["loss"], loss.detach()) < MOMENTS[case.dtype]
    assert relative(found["gradient"], gradient) < GRADIENT[case.dtype]
    ignored = (target == IGNORED).unsqueeze(1).expand_as(input)
    assert (found["gradient"][ignored] == 0).all()
    assert_accesses(case, record_property)


def assert_accesses(case: Case, record_property) -> None:
    """Both read each label once and each descriptor once (logits: `input_loads`); apply writes each element once."""
    counters = emulated.kernels().counters()
    for name, (by_accumulate, by_apply) in (("input", case.input_loads()), ("target", (1, 1))):
        found = counters[name]  # two arrays of this name: accumulate's and apply's
        assert (found["arrays"], found["stores"]) == (2, 0), name
        # The one that reads more often never exceeds its share, the other never falls short, and the totals agree: so
        # every element is read exactly that often.
        assert found["min_loads"] == min(by_accumulate, by_apply), name
        assert found["max_loads"] == max(by_accumulate, by_apply), name
        for phase, times in (("accumulate", by_accumulate), ("apply", by_apply)):
            loaded = sum(t["bytes_loaded"] for kernel, t in found["kernels"].items() if kernel.startswith(phase))
            assert loaded == times * found["bytes"] // 2, (name, phase)
    gradient = counters["gradient"]
    assert (gradient["min_stores"], gradient["max_stores"], gradient["loads"]) == (1, 1, 0)
    for name in ("count", "mean", "scatter", "loss", "scale", "center", "offset"):
        assert counters[name]["max_stores"] == 1, name
    pixels, elements = counters["target"]["elements"] // 2, counters["input"]["elements"] // 2
    record_property(
        "simt_counts",
        f"{case!s:52} input {counters['input']['loads'] // 2:6} loads of {elements:6} elements "
        f"({' + '.join(str(times) for times in case.input_loads())} times), "
        f"target {counters['target']['loads'] // 2:5} of {pixels:5}, gradient {gradient['stores']:6} stores",
    )


def test_every_specialisation_is_reached():
    for case in CASES:
        run(case)
    for dtype in (torch.float32, torch.float64):  # what no case needs: finalise alone, and no image to reduce
        moments = emulated.accumulate(*images(3, dtype), 3, IGNORED, False)
        emulated.finalise(*moments, 0.3, 0, dtype == torch.float64)
        emulated.forward(*images(0, dtype), 3, IGNORED, False, 0, 0.3, 0, 1)
    missed = compiled_kernels() - set(emulated.kernels().kernels_run())
    assert len(compiled_kernels()) > 250
    assert missed == set()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("interleaved", [False, True], ids=["planar", "interleaved"])
@pytest.mark.parametrize(
    "shape",
    [
        ("small", 2, 2, 15),
        ("strips", 3, 5, 15),
        ("strips", 4, 40, 16),
        ("matrix", 9, 5, 16),
        ("matrix", 70, 40, 15),
        ("table", 9, 200, 16),
        ("small", 2, 2, 15, True),
        ("strips", 4, 5, 16, True),
        ("table", 9, 5, 16, True),
        ("swept", 70, 3, 5, True),
    ],
    ids=lambda shape: ("softmax-" if shape[4:] else "") + shape[0],
)
def test_every_schedule_gives_the_same_bits(dtype, interleaved, shape):
    regime, M, N, width, *softmax = shape
    case = Case(regime, dtype, torch.uint8, interleaved, M, N, width, *softmax)
    expected = run(case, height=20)
    for seed in SEEDS:
        emulated.kernels().seed(seed)
        found = run(case, height=20)
        for name, value in expected.items():
            assert torch.equal(found[name], value), (name, seed)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(2, 2), (4, 3)], ids=["2x2", "4x3"])
def test_whichever_block_is_last_merges_alike(shape, dtype):
    """Images of several blocks, in many orders; also right, and poisoned by a label that any of the blocks met."""
    channels, regions = shape
    case = Case("small", dtype, torch.int16, False, channels, regions, 16)
    input, target = case.tensors(height=2 * SMALL_PIXELS[0] // 16 + 5)
    target[1, -1, 3] = 99
    expected = emulated.accumulate(input, target, regions, IGNORED, False)
    moments = reference.region_moments(input[:1].double(), target[:1], regions, ignore_index=IGNORED)
    assert torch.equal(expected[0][:1], moments.count.long())
    assert relative(expected[1][:1], moments.mean) < MOMENTS[dtype]
    assert relative(expected[2][:1], moments.scatter) < MOMENTS[dtype]
    assert expected[1][1].isnan().all() and expected[2][1].isnan().all()
    for seed in range(1, 11):
        emulated.kernels().seed(seed)
        for found, value in zip(emulated.accumulate(input, target, regions, IGNORED, False), expected, strict=True):
            assert torch.equal(found.nan_to_num(), value.nan_to_num()), seed


@pytest.mark.parametrize("case", [c for c in CASES if c.width == 16 and c.dtype == torch.float32], ids=str)
def test_tables_of_partial_results_stay_small(case):
    """Each cell of the workspace is written by its one owner, and read by the merge: bounded, whatever the masks hold."""
    height = 2048 if case.regime.startswith("small") else 512  # enough pixels for several blocks per image
    emulated.accumulate(*case.tensors(height), case.regions, IGNORED, False, case.activation)
    counters = emulated.kernels().counters()
    workspace, input = counters["workspace"], counters["input"]
    assert workspace["bytes"] <= max(input["bytes"] / 4, 2 * 8 * (case.regions * (case.channels + 2) + 1))
    kernels = workspace["kernels"]
    merged = sum(total["bytes_loaded"] for name, total in kernels.items() if name.startswith("merge"))
    assert merged <= 8 * case.regions * workspace["bytes"]  # means twice, counts once per channel and region
    if case.regime == "small":
        assert workspace["max_stores"] == 1


@pytest.mark.parametrize("labels", [torch.uint8, torch.int8, torch.int64], ids=str)
@pytest.mark.parametrize("shape", [(2, 2), (4, 5), (9, 5), (9, 60)], ids=["small", "strips", "matrix", "table"])
def test_label_out_of_range_poisons_its_image_only(labels, shape):
    channels, regions = shape
    case = Case("any", torch.float32 if regions < 60 else torch.float64, labels, False, channels, regions, 16)
    input, target = case.tensors()
    target[1, 3, 4] = 100
    target[1, 9, 9] = 77
    _, mean, scatter = emulated.accumulate(input, target, regions, IGNORED, False)
    assert mean[1].isnan().all() and scatter[1].isnan().all()
    expected = reference.region_moments(input[:1].double(), target[:1], regions, ignore_index=IGNORED)
    assert relative(mean[:1], expected.mean) < 1e-6
    with pytest.raises(ValueError, match=r"got 100 at index \(1, 3, 4\)"):
        emulated.accumulate(input, target, regions, IGNORED, True)
