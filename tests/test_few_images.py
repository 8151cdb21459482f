"""The Fréchet distance of fewer images than features, and memory that is given back and asked for again."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import numpy as np
import pytest
import torch
from aegen_builtin.metrics.fid import distance
from torch import Tensor


def by_eigenvalues(real: Tensor, made: Tensor) -> float:
    """The formula as it is printed, of whole covariances, by the eigenvalues of a product that is not symmetric, in float64."""
    a, b = real.double().numpy(), made.double().numpy()
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    roots = np.sqrt(np.linalg.eigvals(first @ second).astype(complex)).real.sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first) + np.trace(second) - 2 * roots)


@pytest.mark.parametrize(
    ("count", "other", "width"), [(2, 2, 5), (3, 9, 8), (9, 3, 8), (8, 8, 8), (6, 40, 12), (40, 6, 12)]
)
def test_the_distance_of_few_images_is_that_of_their_covariances(count: int, other: int, width: int) -> None:
    draw = torch.Generator().manual_seed(count + width)
    real = torch.randn(count, width, generator=draw)
    made = 1.3 * torch.randn(other, width, generator=draw) + 0.2
    # Half of the digits are lost by a root of an eigenvalue that is nothing but rounding.
    assert distance(real, made) == pytest.approx(by_eigenvalues(real, made), rel=1e-5)
    assert distance(real, made) == pytest.approx(distance(made, real), rel=1e-12)
    assert distance(real, real) == pytest.approx(0.0, abs=1e-6)


def test_the_distance_of_few_images_is_one_that_is_known_by_hand() -> None:
    """Two points ±1 on an axis have variance 2 there; on one axis (√2 - √8)² + 1, on two that are at right angles 2 + 8 + 1."""
    real = torch.zeros(2, 4)
    real[0, 0], real[1, 0] = 1, -1
    along = 2 * real
    along[:, 3] += 1
    assert distance(real, along) == pytest.approx(3.0, rel=1e-12)
    across = torch.zeros(2, 4)
    across[0, 1], across[1, 1] = 2, -2
    across[:, 3] += 1
    assert distance(real, across) == pytest.approx(11.0, rel=1e-12)


def test_where_there_are_enough_both_ways_agree() -> None:
    from aegen_builtin.metrics.fid import _of_few

    draw = torch.Generator().manual_seed(0)
    real, made = torch.randn(60, 7, generator=draw), torch.randn(50, 7, generator=draw) * 0.7 + 0.1
    assert _of_few(real, made) == pytest.approx(distance(real, made), rel=1e-10)


FAULTS = """
import resource
import torch
from aegen import memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(2 ** 24)  # 64 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def held():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

before, small = faults(), held()
for _ in range(3):  # as in a notebook
    with memory.reused():
        faults()
        inside, large = faults(), held()
    after, left = faults(), held()
    print(before, inside, after, large - small, left - small)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the allocator is not GNU's")
def test_memory_is_asked_for_once_meanwhile_and_goes_back_afterwards(environment: dict[str, str]) -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], env=environment, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 3
    for line in done.stdout.splitlines():
        before, inside, after, large, left = map(int, line.split())
        assert before > 100 and after > 100  # pages of any size
        assert inside < before / 4
        assert large > 2**25
        assert left < 2**25
