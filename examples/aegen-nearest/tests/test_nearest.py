"""The command keeps what aegen promises of every command."""

from aegen_nearest import nearest

from aegen.testing import check_command


def test_contract() -> None:
    check_command(nearest)
