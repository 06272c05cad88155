"""CASLoss is cas_loss as a torch.nn.Module."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from devices import for_all_cases, on_every_device
from strategies import DISTANCES, Case

import cas_ext

OPTIONS = dict(
    alpha=0.3,
    num_regions=5,
    ignore_index=255,
    pairs="mean",
    distance="log",
    reduction="sum",
    return_terms=True,
    validate=True,
)


@for_all_cases(examples=50, distances=DISTANCES)
def test_module_computes_what_the_function_computes(device, case):
    input, target = case.tensors(device.torch_device)
    module = cas_ext.CASLoss(**case.options)
    assert torch.equal(module(input, target), cas_ext.cas_loss(input, target, **case.options))
    terms = cas_ext.CASLoss(**case.options, return_terms=True)(input, target)
    for actual, expected in zip(terms, cas_ext.cas_loss(input, target, return_terms=True, **case.options), strict=True):
        assert torch.equal(actual, expected)


@on_every_device
def test_alpha_is_the_one_positional_option(device):
    input, target = Case(spatial=(20,)).tensors(device.torch_device)
    assert torch.equal(cas_ext.CASLoss(0.2)(input, target), cas_ext.cas_loss(input, target, alpha=0.2))
    assert torch.equal(cas_ext.CASLoss()(input, target), cas_ext.cas_loss(input, target))


def test_module_has_no_parameters_and_no_state():
    module = cas_ext.CASLoss(**OPTIONS)
    assert isinstance(module, torch.nn.Module)
    assert not list(module.parameters()) and not list(module.buffers()) and not module.state_dict()


@pytest.mark.parametrize("options", [{}, OPTIONS, {"activation": "softmax"}, {"alpha": 0.5, "pairs": "unordered"}])
def test_repr_shows_every_option_that_is_not_the_default_and_rebuilds_the_module(options):
    shown = repr(cas_ext.CASLoss(**options))
    given = {name: value for name, value in options.items() if (name, value) != ("alpha", 0.5)}
    assert shown == f"CASLoss({', '.join(f'{name}={value!r}' for name, value in given.items())})"
    assert repr(eval(shown, {"CASLoss": cas_ext.CASLoss})) == shown


def test_option_changed_after_the_module_was_built_is_used():
    module = cas_ext.CASLoss()
    module.alpha, module.distance = 0.2, "log"
    input, target = Case(spatial=(20,)).tensors()
    assert torch.equal(module(input, target), cas_ext.cas_loss(input, target, alpha=0.2, distance="log"))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_keep_the_options(copied):
    module = cas_ext.CASLoss(**OPTIONS)
    again = copied(module)
    input, target = Case(spatial=(20,)).tensors()
    assert repr(again) == repr(module)
    assert torch.equal(again(input, target)[0], module(input, target)[0])
    assert not torch.equal(again(input, target)[0], cas_ext.CASLoss()(input, target))


def test_moving_and_casting_the_module_changes_nothing():
    module = cas_ext.CASLoss(**OPTIONS)
    input, target = Case(spatial=(20,)).tensors()
    expected = module(input, target)[0]
    assert torch.equal(module.half().eval()(input, target)[0], expected)
    assert torch.equal(module.double().train()(input, target)[0], expected)
