"""What training code wraps around network and loss: checkpointing, parallel wrappers, pinned data, TorchScript."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from devices import on_devices
from strategies import Case
from torch.utils.checkpoint import checkpoint
from training_steps import Step

import cas_ext

on_real_devices = on_devices("cpu", "cuda")


def step_and_batch(device="cpu"):
    torch.manual_seed(0)
    images, target = Case(batch=4, spatial=(9, 11)).tensors(device)
    return Step().to(device), images.detach(), target


def gradients(module, loss):
    module.zero_grad()
    loss.backward()
    return [parameter.grad.clone() for parameter in module.parameters()]


@on_real_devices
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing_around_network_and_loss_changes_nothing(device, use_reentrant, monkeypatch):
    step, images, target = step_and_batch(device.torch_device)
    images.requires_grad_()  # the re-entrant kind needs an input that requires grad
    plain = step(images, target)
    expected = gradients(step, plain)

    passes, forward = [], cas_ext.ops.forward
    monkeypatch.setattr(cas_ext.ops, "forward", lambda *a: passes.append(1) or forward(*a))
    loss = checkpoint(step, images, target, use_reentrant=use_reentrant)
    assert torch.equal(loss, plain)
    actual = gradients(step, loss)
    assert len(passes) == 2  # forward, and once more in backward
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch is built without torch.distributed")
@on_real_devices
def test_distributed_data_parallel_step_equals_a_plain_one(device, process_group):
    step, images, target = step_and_batch(device.torch_device)
    plain = step(images, target)
    expected = gradients(step, plain)
    parallel = torch.nn.parallel.DistributedDataParallel(step)
    loss = parallel(images, target)
    assert torch.equal(loss, plain)
    assert all(torch.equal(a, b) for a, b in zip(gradients(parallel, loss), expected, strict=True))


@on_real_devices
def test_data_parallel_step_equals_a_plain_one(device):
    # On the CPU the wrapper calls the module; on one GPU it scatters to that GPU.
    step, images, target = step_and_batch(device.torch_device)
    expected = gradients(step, step(images, target))
    parallel = torch.nn.DataParallel(step, device_ids=[0] if device.name == "cuda" else None)
    actual = gradients(parallel, parallel(images, target).mean())
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
def test_data_parallel_over_two_devices_averages_the_loss_of_equal_parts():
    step, images, target = step_and_batch("cuda")
    expected = step(images, target)
    losses = torch.nn.DataParallel(step, device_ids=[0, 1])(images, target)
    assert losses.shape == (2,)
    torch.testing.assert_close(losses.mean(), expected, rtol=1e-5, atol=1e-7)


def test_state_of_training_is_saved_and_loaded_with_the_loss_inside(tmp_path):
    step, images, target = step_and_batch()
    expected = step(images, target)
    torch.save(step.state_dict(), tmp_path / "weights.pt")
    again = Step()
    again.load_state_dict(torch.load(tmp_path / "weights.pt"))
    assert torch.equal(again(images, target), expected)
    torch.save(step, tmp_path / "step.pt")
    whole = torch.load(tmp_path / "step.pt", weights_only=False)
    assert torch.equal(whole(images, target), expected)
    assert torch.equal(copy.deepcopy(step)(images, target), expected)


class Images(torch.utils.data.Dataset):
    """Four images with arbitrary ids, compacted in the worker."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        images, target = Case(batch=1, spatial=(9, 11), seed=index).tensors()
        compacted, _ = cas_ext.compact_regions(100 * target + 7)
        return images.detach()[0], compacted[0]


def test_loader_workers_may_use_cas_ext():
    loader = torch.utils.data.DataLoader(Images(), batch_size=2, num_workers=1)
    losses = [cas_ext.cas_loss(images, target, num_regions=3) for images, target in loader]
    here = [torch.stack(parts) for parts in zip(*(Images()[i] for i in range(2)), strict=True)]
    assert len(losses) == 2
    assert torch.equal(losses[0], cas_ext.cas_loss(*here, num_regions=3))


class InstanceIds(torch.utils.data.Dataset):
    """Two images, one of few regions and one of many; each is compacted by itself."""

    REGIONS = (3, 300)

    def __init__(self, first):
        self.order = (first, 1 - first)

    def __len__(self):
        return 2

    def __getitem__(self, index):
        ids = 7 * (torch.arange(600).view(1, 20, 30) % self.REGIONS[self.order[index]])
        target, num_regions = cas_ext.compact_regions(ids)
        return target[0], num_regions


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("first", [0, 1])
def test_images_compacted_one_by_one_keep_their_labels_in_a_batch(first, workers):
    # A worker stacks into the dtype of the first image: in int8, label 156 of the other would be -100, which is ignored.
    (batch, counts), *others = torch.utils.data.DataLoader(InstanceIds(first), batch_size=2, num_workers=workers)
    assert not others
    assert counts.tolist() == [InstanceIds.REGIONS[i] for i in (first, 1 - first)]
    for target, regions in zip(batch, counts.tolist(), strict=True):
        assert torch.equal(target.flatten().long(), torch.arange(600) % regions)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripting_the_module_says_what_to_use_instead():
    for module in (cas_ext.CASLoss(), Step()):
        with pytest.raises(RuntimeError, match=r"CASLoss: .*TorchScript.* torch\.export"):
            torch.jit.script(module)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_traced_step_computes_the_same_in_its_process_and_refuses_to_be_saved():
    step, images, target = step_and_batch()
    expected = gradients(step, step(images, target))
    traced = torch.jit.trace(step, (images, target))
    assert all(torch.equal(a, b) for a, b in zip(gradients(step, traced(images, target)), expected, strict=True))
    other, labels = Case(batch=2, spatial=(8, 13)).tensors()
    assert torch.equal(traced(other, labels), step(other, labels))
    with pytest.raises(RuntimeError, match="Could not export Python function call"):
        torch.jit.save(traced, io.BytesIO())
