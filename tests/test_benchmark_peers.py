"""What the benchmark suite measures: peers compute the same loss, masks and inputs are what they claim to be."""

from __future__ import annotations

import pytest
import torch
from tolerances import TOLERANCE

import cas_ext
from benchmarks import cases, masks, measure, oracle, peers
from benchmarks.cases import Setting

# Peers sum in float32 in whatever order: some hundred roundings. In half precision the gradient is rounded once more.
PEER_TOLERANCE = {"float32": 2e-5, "bfloat16": TOLERANCE[torch.bfloat16].rounding + 2e-5}
CPU_PEERS = [name for name, peer in peers.PEERS.items() if not peer.cuda_only and peer.why_unavailable() is None]
EAGER_PEERS = [name for name in CPU_PEERS if not peers.PEERS[name].compile]
COMPILED_PEERS = [name for name in CPU_PEERS if peers.PEERS[name].compile]


def setting(name="voc", **changes):
    axes = {"dtype": "float32", "layout": "nchw", "labels": "small", "mask": "random"} | changes
    return Setting(cases.case(name, "tiny"), **axes)


def judged(loss, case_setting, judge=None):
    """(error of the loss, error of the gradient)."""
    input, target = cases.make_input(case_setting, "cpu"), cases.make_target(case_setting, "cpu")
    judge = (judge or oracle.Oracle)(input, target, case_setting.case.regions)
    value = loss(input, target, case_setting.case.regions)
    return judge.loss_error(value), judge.gradient_error(measure.gradient_of(value, input))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", cases.LAYOUTS)
@pytest.mark.parametrize(
    "name", [name for name in EAGER_PEERS if peers.PEERS[name].kind in ("ours", "eager", "library")]
)
def test_eager_peer_agrees_with_the_reference(name, layout, dtype):
    # The reference computes in the dtype of its input, so in bfloat16 it is no peer.
    if (name, dtype) == ("reference", "bfloat16"):
        return
    for case_name, mask in (("voc", "random"), ("volume", "coherent"), ("paper", "absent"), ("voc", "absent")):
        of_loss, of_gradient = judged(peers.PEERS[name].loss, setting(case_name, dtype=dtype, layout=layout, mask=mask))
        assert of_loss <= PEER_TOLERANCE["float32"]
        assert of_gradient <= PEER_TOLERANCE[dtype]


def judged_after_compilation(name):
    peer = peers.PEERS[name]
    judge = (lambda *tensors: oracle.OwnFormula(peer.loss, *tensors)) if peer.kind == "authors" else None
    torch._dynamo.reset()
    return judged(peer.build(), setting("paper" if peer.max_regions == 2 else "voc"), judge)


@pytest.mark.parametrize("name", COMPILED_PEERS)
def test_compiled_peer_is_one_graph_that_agrees_with_the_reference(monkeypatch, name):
    compile = torch.compile

    def without_inductor(loss, *, options, **arguments):  # which would take seconds a peer
        return compile(loss, backend="aot_eager", **arguments)

    monkeypatch.setattr(torch, "compile", without_inductor)
    assert max(judged_after_compilation(name)) <= PEER_TOLERANCE["float32"]


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILED_PEERS)
def test_compiled_peer_agrees_with_the_reference(name):
    assert max(judged_after_compilation(name)) <= PEER_TOLERANCE["float32"]


def test_the_authors_formula_on_a_hand_computed_image():
    # Foreground {1, 3}: mean 2, variance 1. Background {5, 5}. 0.5 * 1 - 0.5 * (2 - 5)^2 = -4, but for the epsilon.
    input = torch.tensor([1.0, 3.0, 5.0, 5.0]).reshape(1, 1, 2, 2)
    target = torch.tensor([1, 1, 0, 0], dtype=torch.uint8).reshape(1, 2, 2)
    assert peers.authors(input, target, 2).item() == pytest.approx(-4, abs=1e-3)
    assert peers.authors(input, target, 2).item() != -4


@pytest.mark.parametrize("mask", ["random", "absent", "giant"])
def test_the_streaming_oracle_equals_the_reference(mask):
    case_setting = setting("voc", mask=mask)
    input, target = cases.make_input(case_setting, "cpu"), cases.make_target(case_setting, "cpu")
    wide = input.detach().double().requires_grad_()
    expected = cas_ext.reference.cas_loss(wide, target, num_regions=20)
    found = oracle.Oracle(input, target, 20)
    assert found.loss_error(expected) <= 1e-12
    assert found.gradient_error(measure.gradient_of(expected, wide)) <= 1e-12
    assert found.gradient_error(torch.full_like(wide, float("nan"))) != found.gradient_error(wide)


def changes_along_rows(mask):
    return (mask[..., 1:] != mask[..., :-1]).float().mean().item()


@pytest.mark.parametrize("shape", [(3, 64, 48), (1, 24, 20, 16)], ids=["image", "volume"])
@pytest.mark.parametrize("regions", [2, 7, 60])
def test_masks_are_what_their_names_say(shape, regions):
    def make(kind):
        mask = masks.make_mask(kind, shape, regions)
        assert mask.shape == shape and mask.min() >= 0 and mask.max() < regions
        assert torch.equal(mask, masks.make_mask(kind, shape, regions))
        return mask

    coherent, absent = make("coherent"), make("absent")
    assert all(len(image.unique()) == regions for image in coherent)
    assert changes_along_rows(coherent) < 0.35 and changes_along_rows(absent) < 0.35
    assert all(len(image.unique()) <= (regions + 1) // 2 for image in absent)
    assert changes_along_rows(make("random")) == pytest.approx(1 - 1 / regions, abs=0.05)
    assert changes_along_rows(make("checkerboard")) == 1
    for image in make("giant"):
        counts = image.flatten().bincount(minlength=regions)
        assert counts[0] == image.numel() - (regions - 1) and (counts[1:] == 1).all()


def test_ragged_images_have_no_multiple_of_8_pixels():
    for name in cases.SIZES:
        for scale in cases.SCALES:
            ragged = cases.case(name, scale).ragged()
            assert ragged.pixels // ragged.shape[0] % 2 == 1
            assert ragged.shape[:2] == cases.case(name, scale).shape[:2]


def test_inputs_are_random_leaves_of_the_layout_asked_for():
    input = cases.make_input(setting(layout="channels_last", dtype="bfloat16"), "cpu")
    assert input.requires_grad and input.is_leaf and input.dtype == torch.bfloat16
    assert input.is_contiguous(memory_format=torch.channels_last)
    assert input.detach().float().std() > 0.5
    assert cases.make_target(setting("superpixel"), "cpu").dtype == torch.int16
