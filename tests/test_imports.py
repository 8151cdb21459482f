"""What is not needed is not imported."""

from __future__ import annotations

import subprocess
import sys

LEAN = """
import sys, torch
from aegen_builtin.metrics.structure import judge, _RULES
alone = judge()
heavy = [name for name in ("torchmetrics", "torchvision", "scipy") if name in sys.modules]
x, y = torch.rand(2, 5, 3, 40, 41, generator=torch.Generator().manual_seed(0))
import torchmetrics
from torchmetrics.functional.image import structural_similarity_index_measure as whole
for more in ({"return_full_image": True}, {"return_contrast_sensitivity": True}):
    for a, b in zip(alone(x, y, **_RULES, **more), whole(x, y, **_RULES, **more), strict=True):
        assert torch.equal(a, b)
assert judge() is whole  # once it is there, it is used
assert torchmetrics.utilities.checks.__name__ in sys.modules and torchmetrics.functional.image.ssim
print(heavy)
"""


def test_structural_similarity_comes_without_the_packages_around_it_and_is_the_same(
    environment: dict[str, str],
) -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", LEAN], env=environment, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_protocols_are_known_without_torch(environment: dict[str, str]) -> None:
    code = "import sys; from aegen.evaluation import PROTOCOLS; print('aegen-1' in PROTOCOLS, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == "True False\n", done.stderr
