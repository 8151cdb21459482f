"""The contract, for authors of plugins: one line in a test gives a component everything that aegen promises of it.

    from aegen.testing import check_objective
    from my_package import MyLoss

    def test_my_loss() -> None:
        check_objective(MyLoss)

Each check builds tiny models on the CPU and raises AssertionError with what does not hold.
"""

from aegen.testing.components import (
    check_architecture,
    check_bottleneck,
    check_features,
    check_likelihood,
)
from aegen.testing.importers import check_importer
from aegen.testing.metrics import check_metric
from aegen.testing.models import check_options
from aegen.testing.objectives import check_objective
from aegen.testing.samplers import check_sampler
from aegen.testing.schemes import check_scheme
from aegen.testing.tools import check_command, check_dataset, check_exporter, check_tracker

__all__ = [
    "check_architecture",
    "check_bottleneck",
    "check_command",
    "check_dataset",
    "check_exporter",
    "check_features",
    "check_importer",
    "check_likelihood",
    "check_metric",
    "check_objective",
    "check_options",
    "check_sampler",
    "check_scheme",
    "check_tracker",
]
