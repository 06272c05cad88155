"""A correct kernel gives the same bits under every order of threads, warps and blocks; a wrong one does not."""

import numpy as np

SEEDS = range(50)


def sums(toys, *, broken):
    values = np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    toys.checked(not broken)  # the race would end the launch
    results = set()
    for seed in SEEDS:
        toys.seed(seed)
        results.add(toys.run("sum", broken, values, threads=256, shared_bytes=32).tobytes())
    toys.checked(True)
    return results


def test_fixed_order_sum_is_bitwise_the_same_under_50_seeds(toys):
    assert len(sums(toys, broken=False)) == 1


def test_atomic_float_sum_depends_on_the_seed(toys):
    assert len(sums(toys, broken=True)) > 1


def test_order_depends_on_the_seed_alone(toys):
    def run(seed):
        toys.seed(seed)
        toys.checked(False)
        values = np.random.default_rng(0).standard_normal(4000).astype(np.float32)
        result = toys.run("sum", True, values, threads=256, shared_bytes=32)
        toys.checked(True)
        return result

    for seed in range(5):
        np.testing.assert_array_equal(run(seed), run(seed))
