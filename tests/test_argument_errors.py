"""A wrong argument raises before any kernel runs; the message names it, what it must be and what it was."""

from __future__ import annotations

import fractions
import re

import numpy as np
import pytest
import torch

import cas_ext

INPUT = torch.zeros(2, 3, 4, 5)
TARGET = torch.zeros(2, 4, 5, dtype=torch.int64)


def named(function: str, argument: str, value: object, got: list[str] | None) -> str:
    """A regex: `function: argument must ..., got ...`, with each of `got` in it; None: the value or its type."""
    shown = [re.escape(g) for g in got] if got else [rf"{re.escape(repr(value))}|{type(value).__name__}"]
    return "(?s)^" + "".join(f"(?=.*(?:{g}))" for g in shown) + rf"{function}: {argument} must .*got "


WRONG_TENSORS = [
    # argument, value, error, shown in the message
    ("input", None, TypeError, ["None"]),
    ("input", [[1.0, 2.0]], TypeError, ["list"]),
    ("input", INPUT.numpy(), TypeError, ["ndarray"]),
    ("input", INPUT.long(), TypeError, ["int64"]),
    ("input", INPUT.to(torch.uint8), TypeError, ["uint8"]),
    ("input", INPUT.bool(), TypeError, ["bool"]),
    ("input", INPUT.to(torch.complex64), TypeError, ["complex64"]),
    ("input", INPUT.to(torch.float8_e4m3fn), TypeError, ["float8_e4m3fn"]),
    ("input", torch.zeros(()), ValueError, ["()"]),
    ("input", torch.zeros(5), ValueError, ["(5,)"]),
    ("input", torch.zeros(2, 0, 4, 5), ValueError, ["(2, 0, 4, 5)"]),
    ("target", None, TypeError, ["None"]),
    ("target", [[0, 1]], TypeError, ["list"]),
    ("target", TARGET.float(), TypeError, ["float32"]),
    ("target", TARGET.half(), TypeError, ["float16"]),
    ("target", TARGET.to(torch.complex64), TypeError, ["complex64"]),
    ("target", torch.zeros(2, 1, 4, 5, dtype=torch.int64), ValueError, ["(2, 4, 5)", "(2, 1, 4, 5)"]),
    ("target", torch.zeros(2, 20, dtype=torch.int64), ValueError, ["(2, 4, 5)", "(2, 20)"]),
    ("target", torch.zeros(1, 4, 5, dtype=torch.int64), ValueError, ["(2, 4, 5)", "(1, 4, 5)"]),
    ("target", torch.zeros(2, 5, 4, dtype=torch.int64), ValueError, ["(2, 4, 5)", "(2, 5, 4)"]),
    ("target", torch.zeros(4, 5, dtype=torch.int64), ValueError, ["(2, 4, 5)", "(4, 5)"]),
    ("target", torch.zeros((), dtype=torch.int64), ValueError, ["(2, 4, 5)", "()"]),
    ("target", TARGET.to("meta"), ValueError, ["meta", "cpu"]),
]

WRONG_COMMON_OPTIONS = [
    ("num_regions", 0, ValueError, ["0"]),
    ("num_regions", -1, ValueError, ["-1"]),
    ("num_regions", 2.0, TypeError, None),
    ("num_regions", True, TypeError, None),
    ("num_regions", "3", TypeError, None),
    ("num_regions", np.float64(3), TypeError, None),
    ("num_regions", np.bool_(True), TypeError, ["bool"]),
    ("num_regions", np.int16(0), ValueError, ["0"]),
    ("num_regions", torch.tensor(3), TypeError, ["Tensor"]),  # to read it may wait for a GPU: said, not done
    ("ignore_index", 1.5, TypeError, None),
    ("ignore_index", None, TypeError, None),
    ("ignore_index", True, TypeError, None),
    ("ignore_index", "0", TypeError, None),
    ("ignore_index", np.bool_(True), TypeError, ["bool"]),
    ("ignore_index", np.uint64(2**63), ValueError, [str(2**63)]),
    ("ignore_index", 2**63, ValueError, [str(2**63)]),
    ("ignore_index", -(2**63) - 1, ValueError, [str(-(2**63) - 1)]),
    ("activation", "relu", ValueError, ["'relu'", "softmax"]),
    ("activation", "", ValueError, ["''"]),
    ("activation", 1, TypeError, None),
    ("activation", True, TypeError, None),
    ("activation", torch.softmax, TypeError, ["builtin_function_or_method"]),
    ("validate", "yes", TypeError, None),
    ("validate", 1, TypeError, None),
    ("process_group", "gloo", TypeError, None),
    ("process_group", 0, TypeError, None),
    ("process_group", True, TypeError, None),
]

WRONG_LOSS_OPTIONS = [
    ("alpha", -0.1, ValueError, ["-0.1"]),
    ("alpha", 1.5, ValueError, ["1.5"]),
    ("alpha", float("nan"), ValueError, ["nan"]),
    ("alpha", float("inf"), ValueError, ["inf"]),
    ("alpha", 2, ValueError, ["2"]),
    ("alpha", True, TypeError, None),
    ("alpha", None, TypeError, None),
    ("alpha", "0.5", TypeError, None),
    ("alpha", 0.5j, TypeError, None),
    ("alpha", np.bool_(True), TypeError, ["bool"]),
    ("alpha", np.float32(1.5), ValueError, ["1.5"]),
    ("alpha", torch.tensor(0.5), TypeError, ["Tensor"]),
    ("pairs", "all", ValueError, ["'all'", "ordered", "unordered", "mean"]),
    ("pairs", "", ValueError, ["''"]),
    ("pairs", None, TypeError, None),
    ("pairs", 0, TypeError, None),
    ("distance", "manhattan", ValueError, ["'manhattan'", "sqeuclidean", "euclidean", "log"]),
    ("distance", None, TypeError, None),
    ("distance", 2, TypeError, None),
    ("distance", ["log"], TypeError, None),
    ("reduction", "average", ValueError, ["'average'", "mean", "sum", "none"]),
    ("reduction", None, TypeError, None),  # not "none": said, not guessed
    ("reduction", ["mean"], TypeError, None),
    ("return_terms", "no", TypeError, None),
    ("return_terms", 1, TypeError, None),
    ("return_terms", None, TypeError, None),
]


def rows(*tables):
    return [
        pytest.param(*row, id=f"{row[0]}={str(row[1])[:20]!r}".replace("\n", "")) for table in tables for row in table
    ]


def call_loss(**arguments):
    arguments = {"input": INPUT, "target": TARGET} | arguments
    return cas_ext.cas_loss(arguments.pop("input"), arguments.pop("target"), **arguments)


def call_moments(**arguments):
    arguments = {"input": INPUT, "target": TARGET, "num_regions": 3} | arguments
    return cas_ext.region_moments(
        arguments.pop("input"), arguments.pop("target"), arguments.pop("num_regions"), **arguments
    )


@pytest.mark.parametrize(
    ("argument", "value", "error", "got"), rows(WRONG_TENSORS, WRONG_COMMON_OPTIONS, WRONG_LOSS_OPTIONS)
)
def test_cas_loss_names_the_wrong_argument(argument, value, error, got):
    with pytest.raises(error, match=named("cas_loss", argument, value, got)):
        call_loss(**{argument: value})
    assert call_loss().item() == 0.0  # and the next call works


@pytest.mark.parametrize(
    ("argument", "value", "error", "got"), rows(WRONG_TENSORS, WRONG_COMMON_OPTIONS, WRONG_LOSS_OPTIONS)
)
def test_reference_names_the_wrong_argument_too(argument, value, error, got):
    arguments = {"input": INPUT, "target": TARGET, "num_regions": 3} | {argument: value}
    input, target = arguments.pop("input"), arguments.pop("target")
    with pytest.raises(error, match=named(r"reference\.cas_loss", argument, value, got)):
        cas_ext.reference.cas_loss(input, target, **arguments)
    if argument not in {row[0] for row in WRONG_LOSS_OPTIONS}:
        with pytest.raises(error, match=named(r"reference\.region_moments", argument, value, got)):
            cas_ext.reference.region_moments(input, target, **arguments)


def test_reference_moments_need_a_number_of_regions():
    with pytest.raises(TypeError, match=named(r"reference\.region_moments", "num_regions", None, None)):
        cas_ext.reference.region_moments(INPUT, TARGET, None)


@pytest.mark.parametrize(("argument", "value", "error", "got"), rows(WRONG_TENSORS, WRONG_COMMON_OPTIONS))
def test_region_moments_names_the_wrong_argument(argument, value, error, got):
    with pytest.raises(error, match=named("region_moments", argument, value, got)):
        call_moments(**{argument: value})
    assert call_moments().count.tolist() == [[20, 0, 0], [20, 0, 0]]


def test_shape_of_the_target_is_shown_beside_that_of_the_input():
    expected = (
        "cas_loss: target must have shape (B, *spatial) = (3, 8) to go with input (B, M, *spatial) = (3, 8, 8), got "
    )
    input = torch.zeros(3, 8, 8)  # an image without its batch dimension, which is taken for a batch of rows
    for shape, got in (((8, 8), "(8, 8)"), ((3, 1, 8), "(3, 1, 8); drop the channel: target.squeeze(1)")):
        with pytest.raises(ValueError, match=f"^{re.escape(expected + got)}$"):
            cas_ext.cas_loss(input, torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize(
    ("shape", "squeezes"),
    [((2, 1, 4, 5), True), ((2, 1, 5, 4), False), ((2, 4, 5, 1), False), ((1, 2, 4, 5), False), ((2, 3, 4, 5), False)],
    ids=str,
)
def test_channel_of_a_target_is_to_be_dropped_where_that_helps(shape, squeezes):
    with pytest.raises(ValueError) as raised:
        call_moments(target=torch.zeros(shape, dtype=torch.uint8))
    assert str(raised.value).endswith(f"got {shape}" + "; drop the channel: target.squeeze(1)" * squeezes)


@pytest.mark.parametrize(
    ("dtype", "wider"),
    [
        ("uint16", "; convert: target.to(torch.int32)"),
        ("uint32", "; convert: target.to(torch.int64)"),
        ("uint64", "; convert: target.to(torch.int64)"),
        ("float32", ""),
    ],
)
def test_unsigned_labels_are_to_be_converted(dtype, wider):
    target = TARGET.to(getattr(torch, dtype))
    for call in (call_loss, call_moments, lambda target: cas_ext.compact_regions(target)):
        with pytest.raises(TypeError) as raised:
            call(target=target)
        assert str(raised.value).endswith(f"got {dtype}{wider}")


def test_region_moments_needs_a_number_of_regions():
    with pytest.raises(TypeError):
        cas_ext.region_moments(INPUT, TARGET)
    with pytest.raises(TypeError, match=named("region_moments", "num_regions", None, None)):
        cas_ext.region_moments(INPUT, TARGET, None)


@pytest.mark.parametrize(("argument", "value", "error", "got"), rows(WRONG_LOSS_OPTIONS, WRONG_COMMON_OPTIONS))
def test_module_names_the_wrong_option(argument, value, error, got):
    # When it is built or when it is called: the user sees the same words.
    with pytest.raises(error, match=named(r"\w+", argument, value, got)):
        cas_ext.CASLoss(**{argument: value})(INPUT, TARGET)


@pytest.mark.parametrize(("argument", "value", "error", "got"), rows(WRONG_TENSORS))
def test_module_names_the_wrong_tensor(argument, value, error, got):
    arguments = {"input": INPUT, "target": TARGET} | {argument: value}
    with pytest.raises(error, match=named(r"\w+", argument, value, got)):
        cas_ext.CASLoss()(arguments["input"], arguments["target"])


@pytest.mark.parametrize("call", [call_loss, call_moments])
def test_unknown_keyword_is_refused(call):
    with pytest.raises(TypeError, match="weight"):
        call(weight=1.0)
    with pytest.raises(TypeError, match="weight"):
        cas_ext.CASLoss(weight=1.0)


def test_options_are_keywords_only():
    # cas_loss(input, target, 0.5) could mean anything to a reader.
    with pytest.raises(TypeError):
        cas_ext.cas_loss(INPUT, TARGET, 0.5)
    with pytest.raises(TypeError):
        cas_ext.CASLoss(0.5, 3)
    with pytest.raises(TypeError):
        cas_ext.region_moments(INPUT, TARGET, 3, 255)


@pytest.mark.parametrize("alpha", [0, 1, 0.0, 1.0, torch.tensor(0.25).item()])
def test_both_ends_of_alpha_and_integers_are_legal(alpha):
    assert call_loss(alpha=alpha).item() == 0.0


@pytest.mark.parametrize("distance", ["sqeuclidean", "log"])
@pytest.mark.parametrize(
    ("integer", "alpha"),
    [(np.int64, np.float32(0.25)), (np.int32, np.float64(0.25)), (np.uint8, fractions.Fraction(1, 4))],
    ids=["int64", "int32", "uint8"],
)
def test_numbers_of_other_libraries_are_numbers(distance, integer, alpha):
    input, target = torch.arange(120.0).view_as(INPUT).sin(), TARGET.clone()
    target[:, 2:], target[0, 0, 0] = 1, 255
    expected = call_loss(input=input, target=target, alpha=0.25, num_regions=2, ignore_index=255, distance=distance)
    options = dict(alpha=alpha, num_regions=integer(2), ignore_index=integer(255), distance=distance)
    assert torch.equal(call_loss(input=input, target=target, **options), expected)
    module = cas_ext.CASLoss(**options)
    assert torch.equal(module(input, target), expected)
    assert repr(module) == repr(cas_ext.CASLoss(alpha=0.25, num_regions=2, ignore_index=255, distance=distance))
    counts = call_moments(target=target, num_regions=integer(2), ignore_index=integer(255)).count
    assert counts.tolist() == [[9, 10], [10, 10]]


def test_wrong_argument_is_found_before_the_kernels_run(monkeypatch):
    def must_not_run(*_):
        raise AssertionError("a kernel ran on unchecked arguments")

    for name in ("accumulate", "finalise", "forward", "apply"):
        monkeypatch.setattr(cas_ext.ops, name, must_not_run)
    for argument, value, error, _ in WRONG_TENSORS + WRONG_COMMON_OPTIONS + WRONG_LOSS_OPTIONS:
        with pytest.raises(error):
            call_loss(**{argument: value})


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_tensors_on_two_devices_are_refused():
    for arguments in ({"input": INPUT.cuda()}, {"target": TARGET.cuda()}):
        with pytest.raises(ValueError, match=named("cas_loss", "target", None, ["cuda:0", "cpu"])):
            call_loss(**arguments)
