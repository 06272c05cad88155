"""Loads and stores are counted by array, by kernel and by element."""

import numpy as np
import pytest

ITEMS = 256


def run(toys, name, broken, **launch):
    return toys.run(name, broken, np.arange(ITEMS, dtype=np.float32), outputs=ITEMS, blocks=4, threads=64, **launch)


@pytest.mark.parametrize("seed", [0, 1])
def test_second_read_is_counted(toys, seed):
    toys.seed(seed)
    run(toys, "read_twice", False)
    once = toys.counters()
    assert once["input"]["loads"] == ITEMS
    assert once["input"]["bytes_loaded"] == 4 * ITEMS
    assert (once["input"]["min_loads"], once["input"]["max_loads"]) == (1, 1)
    assert (once["output"]["min_stores"], once["output"]["max_stores"]) == (1, 1)
    assert once["output"]["loads"] == 0
    toys.reset_counters()
    run(toys, "read_twice", True)
    twice = toys.counters()
    assert twice["input"]["bytes_loaded"] == 8 * ITEMS
    assert (twice["input"]["min_loads"], twice["input"]["max_loads"]) == (2, 2)


def test_launches_add_up_and_are_listed_by_kernel(toys):
    before = toys.kernels_run()
    run(toys, "copy", False, launches=2)
    run(toys, "read_twice", False)
    counts = toys.counters()["input"]
    assert counts["loads"] == 3 * ITEMS
    assert counts["max_loads"] == 2  # of one array: the second call had its own
    assert counts["arrays"] == 2
    assert counts["kernels"]["toys::copy_kernel<false>"]["loads"] == 2 * ITEMS
    new = {name: count - before.get(name, 0) for name, count in toys.kernels_run().items()}
    assert new["toys::copy_kernel<false>"] == 2
    assert new["toys::read_twice_kernel<false>"] == 1


def test_loads_are_known_for_each_element(toys):
    toys.run("misaligned_hint", False, np.zeros(8, dtype=np.float32), threads=1)
    assert toys.loads("input").tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert toys.counters()["input"]["loads"] == 1
    assert toys.counters()["input"]["bytes_loaded"] == 16


def test_atomics_are_counted(toys):
    toys.run("plain_count", False, np.zeros(1, dtype=np.float32), blocks=4, threads=32)
    assert toys.counters()["counter"]["atomics"] == 128


def test_unchecked_launch_counts_nothing_and_gives_the_same(toys):
    checked = run(toys, "copy", False)
    toys.reset_counters()
    toys.checked(False)
    unchecked = run(toys, "copy", False)
    toys.checked(True)
    np.testing.assert_array_equal(checked, unchecked)
    assert toys.counters() == {}
