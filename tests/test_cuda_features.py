"""What only a GPU has: graphs, streams, several devices, pinned memory, and no waiting for the device."""

from __future__ import annotations

import pytest
import torch
from devices import on_devices
from strategies import Case

import cas_ext

on_cuda = on_devices("cuda")
SIZES = dict(batch=3, channels=4, spatial=(65, 67), regions=5, num_regions=5, label_dtype=torch.uint8)


def loss_and_gradient(input, target):
    loss = cas_ext.cas_loss(input, target, num_regions=5)
    return loss, torch.autograd.grad(loss, input)[0]


def problems(count, device="cuda"):
    return [Case(**SIZES, seed=seed).tensors(device) for seed in range(count)]


@on_cuda
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_captured_step_replays_with_new_data(device, layout, reduction):
    first, *others = [Case(**SIZES, layout=layout, seed=seed).tensors(device.torch_device) for seed in range(4)]
    input, target = first[0].detach().clone().requires_grad_(), first[1].clone()

    def step():
        loss = cas_ext.cas_loss(input, target, num_regions=5, reduction=reduction)
        return loss.detach(), torch.autograd.grad(loss.sum(), input)[0]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss, gradient = step()

    for values, labels in others:
        with torch.no_grad():
            input.copy_(values)
        target.copy_(labels)
        graph.replay()
        captured = loss.clone(), gradient.clone()
        for a, b in zip(captured, step(), strict=True):
            assert torch.equal(a, b)


@on_cuda
def test_captured_training_step_trains_on_new_data(device):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, padding=1), torch.nn.Softmax(1)).cuda()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    batches = []
    for seed in range(30):
        target = Case(**SIZES | dict(regions=2), mask="runs", seed=seed).tensors(device.torch_device)[1]
        batches.append((target[:, None] + 0.1 * torch.randn(3, 1, 65, 67, device="cuda"), target))
    images, target = (tensor.clone() for tensor in batches[0])

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = cas_ext.cas_loss(network(images), target, num_regions=2)
        loss.backward()
        optimizer.step()
        return loss.detach()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        first = step().item()
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    for new_images, new_target in batches:
        images.copy_(new_images)
        target.copy_(new_target)
        graph.replay()
    assert loss.item() < first - 0.1


@on_cuda
def test_no_call_waits_for_the_device_where_num_regions_is_given(device):
    (input, target), _ = problems(2)
    loss_and_gradient(input, target)  # the first call may set things up
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss_and_gradient(input, target)
        loss = cas_ext.cas_loss(input, target, num_regions=5, reduction="none", return_terms=True)[0]
        (gradient,) = torch.autograd.grad(loss.sum(), input, create_graph=True)
        torch.autograd.grad(gradient.square().sum(), input)
        with pytest.raises(RuntimeError, match="synchroniz"):  # and this mode would have found a wait
            cas_ext.cas_loss(input, target)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_cuda
def test_kernels_run_on_the_current_stream(device):
    # The input is made late on a side stream: kernels on another stream would read it too early.
    (input, target), (other, _) = problems(2)
    expected = loss_and_gradient(input, target)
    late = other.detach().clone().requires_grad_()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)  # clock cycles, tens of milliseconds
        with torch.no_grad():
            late.copy_(input)
        actual = loss_and_gradient(late, target)
    torch.cuda.current_stream().wait_stream(side)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@on_cuda
def test_two_streams_at_once_do_not_disturb_each_other(device):
    pairs = problems(2)
    expected = [loss_and_gradient(*pair) for pair in pairs]
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    actual = [[], []]
    for _ in range(20):
        for stream, pair, results in zip(streams, pairs, actual, strict=True):
            with torch.cuda.stream(stream):
                results.append(loss_and_gradient(*pair))
    torch.cuda.synchronize()
    for results, wanted in zip(actual, expected, strict=True):
        for result in results:
            assert all(torch.equal(a, b) for a, b in zip(result, wanted, strict=True))


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
def test_tensors_of_the_second_device_are_handled_there():
    (input, target), _ = problems(2, "cuda:1")
    with torch.cuda.device(0):  # the current device is another one
        loss, gradient = loss_and_gradient(input, target)
    assert loss.device == gradient.device == torch.device("cuda:1")
    expected = loss_and_gradient(input.detach().to("cuda:0").requires_grad_(), target.to("cuda:0"))
    assert torch.equal(loss.to("cuda:0"), expected[0]) and torch.equal(gradient.to("cuda:0"), expected[1])
    assert torch.cuda.current_device() == 0


@on_cuda
def test_pinned_targets_are_copied_without_waiting(device):
    (input, target), _ = problems(2)
    pinned = target.cpu().pin_memory()
    expected = loss_and_gradient(input, target)
    actual = loss_and_gradient(input, pinned.to("cuda", non_blocking=True))
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))
    compacted, num_regions = cas_ext.compact_regions(pinned)
    assert (num_regions, compacted.device.type) == (5, "cpu")
    with pytest.raises(ValueError, match="target must be on the device of input"):
        cas_ext.cas_loss(input, pinned)
