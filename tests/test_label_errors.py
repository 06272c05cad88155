"""Labels out of range: on the CPU an error naming the first, on CUDA NaN for that image alone; never a wrong number."""

from __future__ import annotations

import re

import pytest
import torch
from devices import on_devices, on_every_device
from strategies import LABEL_DTYPES, TARGET_LAYOUTS, Case, lay_out_target

import cas_ext

WIDE = [dtype for dtype in LABEL_DTYPES if dtype != torch.bool]
SIGNED = [dtype for dtype in WIDE if dtype.is_signed]


def problem(label_dtype=torch.int64, device="cpu", spatial=(2, 4)):
    """Two legal images with labels 0..2."""
    case = Case(batch=2, spatial=spatial, label_dtype=label_dtype)
    return case.tensors(device)


def says(label: int, where: tuple[int, ...]) -> str:
    # The kernels find it, and do not know which function called them; whoever has such labels wants compact_regions.
    return rf"(?s)^(?=.*{re.escape(str(where))})cas_ext: target must .*got {label}(?!\d).*cas_ext\.compact_regions renumbers"


def both_fail(input, target, label, where, num_regions=3, **options):
    with pytest.raises(ValueError, match=says(label, where)):
        cas_ext.cas_loss(input, target, num_regions=num_regions, **options)
    with pytest.raises(ValueError, match=says(label, where)):
        cas_ext.region_moments(input, target, num_regions, **options)


@pytest.mark.parametrize("validate", [None, True, False])  # the CPU always checks: it costs nothing there
@pytest.mark.parametrize("label_dtype", WIDE)
@pytest.mark.parametrize("label", [7, 3])
def test_label_too_large_is_named_with_its_place(label_dtype, label, validate):
    input, target = problem(label_dtype)
    target[1, 0, 3] = label
    both_fail(input, target, label, (1, 0, 3), validate=validate)


@pytest.mark.parametrize("label_dtype", SIGNED)
@pytest.mark.parametrize("label", [-1, -7])
@pytest.mark.parametrize("num_regions", [3, None])
def test_negative_label_is_named_with_its_place(label_dtype, label, num_regions):
    input, target = problem(label_dtype)
    target[0, 1, 2] = label
    with pytest.raises(ValueError, match=says(label, (0, 1, 2))):
        cas_ext.cas_loss(input, target, num_regions=num_regions)


def test_bool_label_beyond_a_single_region_is_named():
    target = torch.tensor([[False, False, True]])
    both_fail(torch.zeros(1, 2, 3), target, 1, (0, 2), num_regions=1)


@pytest.mark.parametrize("label_dtype", WIDE)
def test_ignore_index_of_another_call_is_an_error(label_dtype):
    # 100 marks "ignore" in this data set, but nobody said so.
    input, target = problem(label_dtype)
    target[1, 1, 1] = 100
    both_fail(input, target, 100, (1, 1, 1))
    assert torch.isfinite(cas_ext.cas_loss(input, target, num_regions=3, ignore_index=100))


@on_every_device
@pytest.mark.parametrize("label", [-100, -1])
def test_label_that_compact_regions_writes_is_explained(device, label):
    # Compacted, but called with the ignore_index of the ids before.
    input, target = problem(device=device.torch_device)
    target[1, 0, 3] = label
    with pytest.raises(ValueError, match=says(label, (1, 0, 3))) as raised:
        cas_ext.cas_loss(input, target, num_regions=3, ignore_index=255, validate=True)
    explained = "ids and writes -100, the default ignore_index, for ignored pixels" in str(raised.value)
    assert explained == (label == -100)


@on_every_device
@pytest.mark.parametrize(
    ("label_dtype", "label"),
    [
        (torch.int64, 2**32),  # 0 in 32 bits
        (torch.int64, 2**32 + 1),
        (torch.int64, -(2**32)),
        (torch.int64, 2**63 - 1),
        (torch.int64, -(2**63)),
        (torch.int64, 2**16),
        (torch.int64, 2**8 + 1),
        (torch.int32, 2**16 + 1),
        (torch.int32, 2**31 - 1),
        (torch.int32, -(2**31)),
        (torch.int16, 2**8 + 1),
        (torch.int16, -(2**15)),
        (torch.uint8, 255),
        (torch.int8, -128),
    ],
)
def test_label_is_not_cut_to_fewer_bits(device, label_dtype, label):
    input, target = problem(label_dtype, device.torch_device)
    target[1, 0, 0] = label
    both_fail(input, target, label, (1, 0, 0), validate=True)


@pytest.mark.parametrize("label", [2**20, 10**8, 2_000_000_000, 2**31 - 2, 2**31 - 1, 2**63 - 1])
def test_missing_num_regions_is_not_taken_from_an_id_that_is_no_label(label):
    # The table would be as long as the id: gigabytes for a mask of 16 pixels.
    input, target = problem()
    target[1, 0, 3] = label
    with pytest.raises(ValueError, match=rf"^cas_loss: target must hold labels below 1048576 .*got {label};") as raised:
        cas_ext.cas_loss(input, target)
    assert "cas_ext.compact_regions renumbers arbitrary ids" in str(raised.value)
    assert (f"num_regions={label + 1} forces" in str(raised.value)) == (label < 2**31 - 1)
    assert torch.isfinite(cas_ext.cas_loss(input, target, ignore_index=label))


def test_missing_num_regions_allows_a_region_for_each_pixel_and_at_least_a_million():
    input, target = problem()
    target[1, 0, 3] = 2**20 - 1
    expected = cas_ext.cas_loss(input, target, num_regions=2**20)
    assert torch.equal(cas_ext.cas_loss(input, target), expected)
    target = torch.arange(1_200_000).reshape(2, 600_000)
    assert torch.isfinite(cas_ext.cas_loss(torch.zeros(2, 1, 600_000), target))
    with pytest.raises(ValueError, match=r"labels below 1200000 .*got 1200000; .*num_regions=1200001 forces"):
        cas_ext.cas_loss(torch.zeros(2, 1, 600_000), target + 1)


@pytest.mark.parametrize("layout", TARGET_LAYOUTS)
def test_first_bad_label_in_reading_order_is_named_whatever_the_layout(layout):
    input, target = problem(spatial=(40, 70))
    labels = target.clone()
    for place in [(0, 21, 3), (0, 21, 4), (0, 38, 1), (1, 0, 0)]:
        labels[place] = 7 + place[0] + place[2]
    both_fail(input, lay_out_target(labels, layout), 10, (0, 21, 3))


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("first", [(0, 0, 0), (0, 150, 200), (1, 0, 1), (2, 299, 299)])
def test_first_bad_label_does_not_depend_on_the_threads(threads, first):
    input, target = Case(batch=3, channels=1, spatial=(300, 300)).tensors()
    target.view(-1)[torch.tensor(first) @ torch.tensor([90_000, 300, 1]) :] = 5
    target[first] = 4
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        both_fail(input, target, 4, first)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("spatial", [(), (4,), (2, 3, 2)])
def test_place_has_as_many_coordinates_as_the_target(spatial):
    input, target = problem(spatial=spatial)
    target[-1] = 7
    both_fail(input, target, 7, (1,) + (0,) * len(spatial))


def test_next_call_works_after_an_error():
    input, target = problem()
    expected = cas_ext.cas_loss(input, target, num_regions=3)
    bad = target.clone()
    bad[0, 0, 0] = 7
    with pytest.raises(ValueError):
        cas_ext.cas_loss(input, bad, num_regions=3)
    assert torch.equal(cas_ext.cas_loss(input, target, num_regions=3), expected)


def loss_and_gradient(input, target):
    loss = cas_ext.cas_loss(input, target, num_regions=3, reduction="none")
    return loss.detach(), torch.autograd.grad(loss.sum(), input)[0]


@on_devices("emulated", "cuda")
@pytest.mark.parametrize("label_dtype", WIDE)
@pytest.mark.parametrize("label", [3, 7, 101, -1, -101])
@pytest.mark.parametrize("channels", [3, 9])
def test_cuda_answers_nan_for_the_image_of_a_bad_label_and_no_other(device, label_dtype, label, channels):
    case = Case(batch=3, channels=channels, spatial=(301,), label_dtype=label_dtype)
    input, target = case.tensors(device.torch_device)
    clean = loss_and_gradient(input, target)
    target[1, 123] = label if label_dtype.is_signed else abs(label) + 2
    loss, gradient = loss_and_gradient(input, target)
    assert loss.isnan().tolist() == [False, True, False]
    assert torch.equal(loss[::2], clean[0][::2])
    assert gradient[1].isnan().any()
    assert torch.equal(gradient[::2], clean[1][::2])


@on_devices("emulated", "cuda")
@pytest.mark.parametrize("pixels", [1, 300])
def test_cuda_answers_nan_for_an_image_of_bad_labels_only(device, pixels):
    input, _ = Case(batch=1, spatial=(pixels,)).tensors(device.torch_device)
    target = torch.full((1, pixels), 9, device=device.torch_device)
    assert cas_ext.cas_loss(input, target, num_regions=3).isnan()
    assert cas_ext.region_moments(input, target, 3).scatter.isnan().all()


@on_devices("emulated", "cuda")
@pytest.mark.parametrize("place", [(0, 0), (1, 123), (2, 300)])
def test_cuda_raises_for_a_bad_label_when_asked(device, monkeypatch, place):
    input, target = Case(batch=3, spatial=(301,)).tensors(device.torch_device)
    target[2, 300] = 8
    target[place] = 7
    both_fail(input, target, 7, place, validate=True)
    monkeypatch.setenv("CAS_EXT_VALIDATE", "1")
    both_fail(input, target, 7, place)
    monkeypatch.setenv("CAS_EXT_VALIDATE", "0")
    assert cas_ext.cas_loss(input, target, num_regions=3).isnan()  # and the device still works


@pytest.mark.parametrize(("texts", "wanted"), [("1 true True yes YES", True), ("0 false FALSE no No", False)])
def test_environment_says_whether_labels_are_validated(monkeypatch, texts, wanted):
    seen = []

    def forward(*arguments):
        seen.append(arguments[4])  # validate
        return torch.ops.cas_ext.forward(*arguments)

    monkeypatch.setattr(cas_ext.ops, "forward", forward)
    input, target = problem()
    for text in texts.split():
        monkeypatch.setenv("CAS_EXT_VALIDATE", text)
        for validate in (None, True, False):
            cas_ext.cas_loss(input, target, num_regions=3, validate=validate)
        assert seen == [wanted, True, False], text
        seen.clear()
    monkeypatch.setenv("CAS_EXT_VALIDATE", "")
    cas_ext.cas_loss(input, target, num_regions=3)
    monkeypatch.delenv("CAS_EXT_VALIDATE")
    cas_ext.cas_loss(input, target, num_regions=3)
    assert seen == [False, False]


@pytest.mark.parametrize("text", ["2", "on", "falsch", " "])
def test_environment_that_says_neither_yes_nor_no_is_named(monkeypatch, text):
    monkeypatch.setenv("CAS_EXT_VALIDATE", text)
    input, target = problem()
    message = (
        "cas_ext: the environment variable CAS_EXT_VALIDATE must be one of 0, 1, false, true, no, yes or empty, got "
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message + repr(text))}$"):
        cas_ext.cas_loss(input, target, num_regions=3)
    assert torch.isfinite(cas_ext.cas_loss(input, target, num_regions=3, validate=False))


@pytest.mark.parametrize("label", [3, -1])
@pytest.mark.parametrize("validate", [None, True, False])  # on the CPU, as cas_ext itself
def test_reference_refuses_a_bad_label_too(label, validate):
    input, target = problem()
    target[1, 0, 3] = label
    says = r"target must lie in \[0, num_regions\) = \[0, 3\) or be ignore_index = -100, got others in images \[1\]$"
    with pytest.raises(ValueError, match=rf"^reference\.cas_loss: {says}"):
        cas_ext.reference.cas_loss(input, target, num_regions=3, validate=validate)
    with pytest.raises(ValueError, match=rf"^reference\.region_moments: {says}"):
        cas_ext.reference.region_moments(input, target, 3, validate=validate)
    assert torch.isfinite(cas_ext.reference.cas_loss(input, target, num_regions=3, ignore_index=label))


@pytest.mark.parametrize("label", [3, -1])
def test_reference_answers_nan_for_the_image_of_a_bad_label_where_no_label_can_be_read(label):
    input, target = problem()
    target[1, 0, 3] = label

    def losses(input, target):
        return cas_ext.reference.cas_loss(input, target, num_regions=3, reduction="none")

    compiled = torch.compile(losses, fullgraph=True, backend="eager")
    assert compiled(input, target).isnan().tolist() == [False, True]
    mapped = torch.func.vmap(losses)(input.unsqueeze(1), target.unsqueeze(1))
    assert mapped.isnan().tolist() == [[False], [True]]
    assert cas_ext.reference.unchecked_loss(input, target, 3, reduction="none").isnan().tolist() == [False, True]


def test_reference_does_not_take_num_regions_from_an_id_that_is_no_label():
    input, target = problem()
    target[1, 0, 3] = 2_000_000_000
    with pytest.raises(
        ValueError, match=r"^reference\.cas_loss: target must hold labels below 1048576 .*got 2000000000;"
    ):
        cas_ext.reference.cas_loss(input, target)
