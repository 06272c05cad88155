"""One suite, three devices: the CPU kernels, the CUDA kernels emulated on the CPU, and the CUDA kernels on a GPU.

`@on_every_device` hands a test each `Device` in turn, and conftest.py keeps that device running for the whole test. A
test moves its tensors to `device.torch_device` and calls cas_ext as a user would.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import SearchStrategy
from strategies import cases

import cas_ext

USUAL_EXAMPLES = 100  # max_examples of a hypothesis profile that leaves the numbers in the tests as they stand


@dataclass(frozen=True)
class Device:
    """Where the kernels run, and how much work is sensible there."""

    name: str
    torch_device: str
    effort: float  # share of a property test's examples
    max_elements: int  # largest input of a drawn case, in descriptor elements

    def why_absent(self) -> str | None:
        if self.name == "cuda":
            if not torch.cuda.is_available():
                return "no CUDA device"
            if not torch._C._dispatch_has_kernel_for_dispatch_key("cas_ext::accumulate", "CUDA"):
                return "the CUDA half of cas_ext is not built for this torch"
        return None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Every cas_ext call inside uses this device's kernels."""
        if self.name != "emulated":
            yield
            return
        emulated = importlib.import_module("simt.emulated")
        kernels = {name: getattr(emulated, name) for name in ("accumulate", "finalise", "forward", "apply")}
        with mock.patch.multiple(cas_ext.ops, **kernels):
            yield

    def examples(self, on_cpu: int) -> int:
        return max(5, round(on_cpu * self.effort * settings.default.max_examples / USUAL_EXAMPLES))


DEVICES = {
    device.name: device
    for device in (
        Device("cpu", "cpu", effort=1.0, max_elements=1 << 20),
        Device("emulated", "cpu", effort=0.3, max_elements=1 << 16),  # one emulated thread runs at a time
        Device("cuda", "cuda", effort=1.0, max_elements=1 << 20),
    )
}


def on_devices(*names: str) -> pytest.MarkDecorator:
    marks = {"cuda": [pytest.mark.cuda]}
    return pytest.mark.parametrize(
        "device", [pytest.param(DEVICES[name], id=name, marks=marks.get(name, [])) for name in names]
    )


on_every_device = on_devices("cpu", "emulated", "cuda")


EXAMPLES_RUN: Counter[str] = Counter()  # by device, in the running test; conftest.py reports them


def for_all(
    examples: int, drawn: Callable[[Device], SearchStrategy], devices: pytest.MarkDecorator = on_every_device
) -> Callable:
    """Makes a test of `behaviour(device, case)`: on each device it must hold for that many cases of `drawn(device)`.

    How many examples depends on the device, so `given` is applied inside the test and not around it.
    """

    def decorate(behaviour: Callable) -> Callable:
        @pytest.mark.hypothesis
        @devices
        def test(device: Device) -> None:
            def check(case) -> None:
                EXAMPLES_RUN[device.name] += 1
                behaviour(device, case)

            check.__name__ = check.__qualname__ = behaviour.__name__  # hypothesis derives the seed from the name
            settings(max_examples=device.examples(examples))(given(case=drawn(device))(check))()

        test.__name__ = test.__qualname__ = behaviour.__name__
        test.__doc__ = behaviour.__doc__
        test.__module__ = behaviour.__module__
        return test

    return decorate


def for_all_cases(examples: int, **restrictions) -> Callable:
    """`for_all` calls of cas_loss; `restrictions` are keywords of `strategies.cases`."""
    return for_all(examples, lambda device: cases(max_elements=device.max_elements, **restrictions))
