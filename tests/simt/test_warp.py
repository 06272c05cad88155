"""Shuffles, votes, matches, reductions, products and atomics agree with a model written lane by lane."""

import functools
import operator

import numpy as np
import pytest
import torch

LANES = np.arange(32)
SHUFFLES = ["shuffle", "up", "down", "xor"]
OPERATIONS = [*SHUFFLES, "ballot", "any", "all", "match_any", "match_all", "add", "min", "max", "and", "or", "xor_bits"]
FULL = 0xFFFFFFFF
MASKS = [FULL, 0x0000FFFF, 0x55555555, 0x80000001, 0x00000100]


def run(toys, operation, values, *, mask=FULL, argument=0, width=32, unsigned=False, kind="int"):
    arguments = np.broadcast_to(argument, 32)
    return toys.warp(OPERATIONS.index(operation), mask, values, arguments, width, unsigned, kind)


def source(operation, lane, argument, width):
    """PTX's shfl: the lane to read, its own where the segment of `width` lanes ends."""
    first = lane - lane % width
    if operation == "shuffle":
        return first + argument % width
    if operation == "up":
        return lane - argument if lane - argument >= first else lane
    if operation == "down":
        return lane + argument if lane + argument < first + width else lane
    return lane ^ argument if lane ^ argument < first + width else lane


@pytest.mark.parametrize("kind", ["int", "unsigned", "long long", "float", "double"])
@pytest.mark.parametrize("width", [1, 2, 8, 32])
@pytest.mark.parametrize("operation", SHUFFLES)
def test_shuffle(toys, operation, width, kind):
    values = np.arange(100, 132) * (1 if kind in ("int", "unsigned") else 0.5 if kind != "long long" else 2**33)
    for seed in (0, 3):
        toys.seed(seed)
        for argument in (0, 1, 3, 9, 31):
            expected = [values[source(operation, lane, argument, width)] for lane in LANES]
            actual = run(toys, operation, values, argument=argument, width=width, kind=kind)
            np.testing.assert_array_equal(actual, expected)


def test_each_lane_may_read_another(toys):
    order = np.random.default_rng(0).permutation(32)
    np.testing.assert_array_equal(run(toys, "shuffle", LANES, argument=order), order)


@pytest.mark.parametrize("mask", MASKS)
def test_votes_and_matches(toys, mask):
    values = np.random.default_rng(mask).integers(-1, 3, 32)
    named = [lane for lane in LANES if mask >> lane & 1]
    bits = functools.partial(sum)
    ballot = bits(1 << int(lane) for lane in named if values[lane] > 0)
    expected = {
        "ballot": lambda lane: ballot,
        "any": lambda lane: ballot != 0,
        "all": lambda lane: ballot == mask,
        "match_any": lambda lane: bits(1 << int(other) for other in named if values[other] == values[lane]),
        "match_all": lambda lane: mask if len(set(values[named])) == 1 else 0,
    }
    for operation, model in expected.items():
        result = run(toys, operation, values, mask=mask)
        np.testing.assert_array_equal(result[named], [model(lane) for lane in named], operation)
    np.testing.assert_array_equal(run(toys, "match_all", np.full(32, 5), mask=mask)[named], mask)


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("mask", MASKS)
def test_reductions(toys, mask, unsigned):
    values = np.random.default_rng(mask).integers(0 if unsigned else -1000, 1000, 32)
    named = [int(values[lane]) for lane in LANES if mask >> lane & 1]
    models = {"add": operator.add, "min": min, "max": max, "and": operator.and_, "or": operator.or_}
    for operation, model in {**models, "xor_bits": operator.xor}.items():
        result = run(toys, operation, values, mask=mask, unsigned=unsigned)
        expected = functools.reduce(model, named)
        if operation in ("and", "or", "xor_bits"):
            expected %= 1 << 32
        lane = (mask & -mask).bit_length() - 1
        assert result[lane] == expected, operation


def bits(values: torch.Tensor) -> np.ndarray:
    return values.contiguous().view(torch.int16).numpy().view(np.uint16)


def test_product_of_matrices(toys):
    random = torch.Generator().manual_seed(0)
    onehot, parts = (torch.randint(-4, 5, shape, generator=random).bfloat16() for shape in ((16, 16), (8, 16)))
    before = torch.randint(-9, 10, (16, 8), generator=random).float()
    found = toys.product(bits(onehot), bits(parts), before.numpy())
    np.testing.assert_array_equal(found, (before + onehot.float() @ parts.float().T).numpy())


def test_product_cuts_off_what_lies_below_the_last_bit_of_the_largest_term(toys):
    onehot, parts = torch.ones(16, 16, dtype=torch.bfloat16), torch.zeros(8, 16, dtype=torch.bfloat16)
    parts[:, 3] = 2.0**-24
    before = np.ones((16, 8), dtype=np.float32)
    assert (toys.product(bits(onehot), bits(parts), before) == 1).all()
    parts[:, 3] = 2.0**-23 * 1.5
    assert (toys.product(bits(onehot), bits(parts), before) == 1 + 2.0**-23).all()


def test_product_has_no_place_for_what_is_not_finite(toys):
    """0 times infinity: why accumulate_matrix keeps such values out of it."""
    onehot, parts = torch.zeros(16, 16, dtype=torch.bfloat16), torch.zeros(8, 16, dtype=torch.bfloat16)
    parts[2, 5] = torch.inf
    found = toys.product(bits(onehot), bits(parts), np.zeros((16, 8), dtype=np.float32))
    assert np.isnan(found[:, 2]).all() and (found[:, 3] == 0).all()


@pytest.mark.parametrize("seed", [0, 5])
def test_atomics(toys, seed):
    toys.seed(seed)
    values = np.random.default_rng(0).integers(-1000, 1000, 128)
    initial = [0, 10**6, -(10**6), -1, 0, 0, 0, 0]
    integers, total, single = toys.atomics(values, initial, 4)
    expected = [values.sum(), values.min(), values.max()]
    expected += [
        functools.reduce(op, values.tolist(), 0 - (op is operator.and_))
        for op in (operator.and_, operator.or_, operator.xor)
    ]
    assert integers.tolist() == [*map(int, expected), 7, 128]
    assert total[0] == single[0] == values.sum()
