"""process_group: the pixels of the same images on several processes. Loss and derivatives are those of the whole images."""

from __future__ import annotations

import copy
import datetime

import pytest
import torch
import torch.distributed as dist
from oracle import random_like
from strategies import Case

import cas_ext

# Where each process's pixels begin and end: ragged, and with processes that have none.
SPLITS = {
    2: ((0, 9, 23), (0, 23, 23)),
    3: ((0, 4, 5, 23), (0, 0, 11, 23)),
}
CASE = Case(
    batch=2, channels=3, spatial=(23,), regions=4, num_regions=5, ignored=0.2, dtype=torch.float64, mask="half absent"
)
CALLS = {
    "plain": dict(),
    "terms, each image": dict(reduction="none", return_terms=True, pairs="mean"),
    "sum": dict(reduction="sum"),
    "log": dict(distance="log", return_terms=True),
    "euclidean": dict(distance="euclidean", reduction="none"),
    "softmax": dict(activation="softmax", pairs="unordered"),
    "softmax, log": dict(activation="softmax", distance="log"),
    "float32": dict(dtype=torch.float32),
    "bfloat16": dict(dtype=torch.bfloat16),
}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 1e-2}


def derivatives(part, options, group):
    """(what is the same on every process: terms, mixed derivatives, moments; what belongs to its own pixels: gradients)."""
    options = dict(options)
    options.pop("dtype", None)
    input, target, tangent = part
    input = input.detach().requires_grad_()
    terms = cas_ext.cas_loss(input, target, alpha=0.3, num_regions=5, process_group=group, **options)
    terms = terms if isinstance(terms, tuple) else (terms,)
    upstream = [random_like(term, 7 + k).requires_grad_() for k, term in enumerate(terms)]
    (gradient,) = torch.autograd.grad(terms, input, upstream, create_graph=True)
    product, *mixed = torch.autograd.grad(gradient, (input, *upstream), tangent)
    # A loss of the loss: its second derivative goes through the mixed one.
    (gradient_of_square,) = torch.autograd.grad(
        sum(term.square().sum() for term in cas_ext.cas_loss(
            input, target, num_regions=5, return_terms=True, process_group=group, distance=options.get("distance", "sqeuclidean")
        )), input, create_graph=True,
    )  # fmt: skip
    (product_of_square,) = torch.autograd.grad(gradient_of_square, input, tangent)

    activation = options.get("activation")
    moments = cas_ext.region_moments(input, target, 5, activation=activation, process_group=group)
    cubic = moments.mean.pow(3).sum() + moments.scatter.square().sum()
    (of_moments,) = torch.autograd.grad(cubic, input, create_graph=True)
    (second_of_moments,) = torch.autograd.grad(of_moments, input, tangent)
    whole = [*terms, *mixed, *moments]  # the same on every process
    own = [gradient, product, gradient_of_square, product_of_square, of_moments, second_of_moments]
    return [x.detach() for x in whole], [x.detach() for x in own]


def problem(dtype):
    input, target = CASE.tensors()
    return input.detach().to(dtype), target, random_like(input.detach().to(dtype), 3)


def caught(call):
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def bad_label(rank, group):
    """Only the last process holds a label out of range."""
    target = torch.zeros(1, 4, dtype=torch.int64)
    if rank == dist.get_world_size(group) - 1:
        target[0, 2] = 9
    return caught(lambda: cas_ext.cas_loss(torch.zeros(1, 2, 4), target, num_regions=3, process_group=group))


def compiled(group):
    def step(input, target):
        return cas_ext.cas_loss(input, target, num_regions=3, process_group=group)

    arguments = torch.arange(8.0).reshape(1, 2, 4), torch.tensor([[0, 1, 2, 2]])
    error = caught(lambda: torch.compile(step, backend="eager", fullgraph=True)(*arguments))
    torch.compiler.reset()
    return error, torch.equal(torch.compile(step, backend="eager")(*arguments), step(*arguments))


def work(rank, world, folder):
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=60),
    )
    torch.set_num_threads(1)
    group = dist.group.WORLD
    found = {}
    for splits in SPLITS[world]:
        own = slice(splits[rank], splits[rank + 1])
        for name, options in CALLS.items():
            part = [x[..., own] for x in problem(options.get("dtype", torch.float64))]
            found[splits, name] = derivatives(part, options, group)
    found["bad label"] = bad_label(rank, group)
    found["after the error"] = cas_ext.cas_loss(
        torch.ones(1, 2, 4), torch.zeros(1, 4, dtype=torch.uint8), num_regions=1, process_group=group
    )
    found["compiled"] = compiled(group)
    module = cas_ext.CASLoss(num_regions=3, process_group=group)
    found["copy shares the group"] = copy.deepcopy(module).process_group is group
    found["without num_regions"] = [
        caught(lambda: cas_ext.cas_loss(torch.zeros(1, 2, 4), torch.zeros(1, 4).long(), process_group=group)),
        caught(lambda: cas_ext.CASLoss(process_group=group)),
    ]
    only_first = dist.new_group([0])
    input, target = torch.arange(8.0).reshape(1, 2, 4), torch.tensor([[0, 1, 1, 0]])
    found["subgroup"] = caught(
        lambda: cas_ext.cas_loss(input, target, num_regions=2, process_group=only_first) + 0 * rank
    )
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 3])
def results(request, tmp_path_factory):
    """What every process found: one start of the processes for all tests."""
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(work, (request.param, str(folder)), nprocs=request.param)
    return [torch.load(folder / f"{rank}.pt") for rank in range(request.param)]


def assert_near(actual, expected, tolerance):
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    scale = expected.double().abs().max().item() if expected.numel() else 0.0
    torch.testing.assert_close(actual.double(), expected.double(), rtol=0, atol=tolerance * max(scale, 1e-300))


@pytest.mark.parametrize("name", CALLS)
def test_every_process_gets_the_loss_and_its_own_part_of_the_derivatives(results, name):
    dtype = CALLS[name].get("dtype", torch.float64)
    whole, own = derivatives(problem(dtype), CALLS[name], None)
    for splits in SPLITS[len(results)]:
        parts = [result[splits, name] for result in results]
        for k, expected in enumerate(whole):
            tolerance = TOLERANCE[dtype] if dtype == torch.float64 else 1e-5
            assert_near(parts[0][0][k], expected, tolerance if expected.dtype != torch.bfloat16 else 1e-2)
        for k, expected in enumerate(own):
            assert_near(torch.cat([part[1][k] for part in parts], -1), expected, TOLERANCE[dtype])


@pytest.mark.parametrize("name", CALLS)
def test_every_process_gets_the_same_bits(results, name):
    for splits in SPLITS[len(results)]:
        first, *others = (result[splits, name][0] for result in results)
        for other in others:
            assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_a_bad_label_on_one_process_raises_on_all(results):
    *others, holder = (result["bad label"] for result in results)
    assert holder.startswith("ValueError: cas_ext: target must ") and "got 9 at index (0, 2)" in holder
    for message in others:
        assert (
            message == f"ValueError: cas_ext: target must lie in [0, num_regions), got others on ranks [{len(others)}]"
        )
    assert all(result["after the error"].item() == 0 for result in results)  # nobody is left waiting


def test_compiled_graph_refuses_a_group_and_a_graph_break_takes_it(results):
    for result in results:
        error, same = result["compiled"]
        assert "cas_ext: process_group cannot be part of a compiled graph" in error
        assert same


def test_copied_module_shares_the_group(results):
    assert all(result["copy shares the group"] for result in results)


def test_number_of_regions_must_be_given(results):
    for result in results:
        for error in result["without num_regions"]:
            assert error.startswith("ValueError: cas_loss: num_regions must be given with a process_group")


def test_group_without_this_process_is_refused(results):
    first, *others = (result["subgroup"] for result in results)
    assert first == "no error"
    for error in others:
        assert error.startswith("TypeError: cas_loss: process_group must ")
