"""Signals: one list of them, heard where they are not ignored, and never raised in the middle of an import."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aegen import registry, signals
from aegen.errors import PluginError
from aegen.training.stop_signal import Stop

posix = pytest.mark.skipif(os.name != "posix", reason="a process cannot send itself these elsewhere")


def awaited() -> None:
    """Until the exception comes."""
    for _ in range(3000):
        time.sleep(0.01)
    pytest.fail("nothing was raised")


@pytest.fixture(autouse=True)
def heard() -> None:
    """A shell that starts tests in the background has them ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@posix
@pytest.mark.parametrize("number", signals.known())
def test_a_signal_in_the_middle_of_an_import_is_raised_after_it(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "inner_one.py").write_text(f"import os\nos.kill(os.getpid(), {int(number)})\nwhole = sum(range(9))\n")
    (tmp_path / "outer_one.py").write_text("import inner_one\nwhole = inner_one.whole\n")
    for name in ("inner_one", "outer_one"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    whole: list[int] = []

    def work() -> None:
        whole.append(importlib.import_module("outer_one").whole)
        awaited()

    with pytest.raises(KeyboardInterrupt), signals.raised() as came:
        work()
    assert whole == [36] and came[0] == number


@posix
def test_an_import_that_takes_too_long_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(signals, "_LONGEST", 0.0)
    (tmp_path / "endless_one.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\nfor _ in range(3000): time.sleep(0.01)\n"
    )
    with pytest.raises(KeyboardInterrupt), signals.raised():
        importlib.import_module("endless_one")
    assert "endless_one" not in sys.modules


@posix
def test_a_signal_where_python_may_raise_nothing_is_not_lost() -> None:
    class Last:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            sum(range(1000))

    def work() -> None:
        last = Last()
        del last
        awaited()

    with pytest.raises(KeyboardInterrupt), signals.raised():
        work()


@posix
def test_what_is_ignored_stays_so_and_the_rest_is_put_back() -> None:
    before = {number: signal.getsignal(number) for number in signals.known()}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        for listening in (signals.raised(), Stop().listening()):
            with listening:
                heard = [number.name for number in signals.known() if signal.getsignal(number) is not signal.SIG_IGN]
                assert heard == [name.name for name in signals.known() if name.name != "SIGHUP"]
                os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before[signal.SIGHUP])
    assert {number: signal.getsignal(number) for number in signals.known()} == before


@posix
def test_the_loop_is_asked_and_a_second_ctrl_c_stops_at_once() -> None:
    stop, asked = Stop(), []

    def work() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
            asked.append(stop())
        os.kill(os.getpid(), signal.SIGINT)
        awaited()

    with pytest.raises(KeyboardInterrupt), stop.listening():
        work()
    assert asked == [True, True]


@posix
def test_who_listens_within_hears_alone_and_it_is_known_afterwards() -> None:
    stop = Stop()
    with signals.raised() as outside:
        assert not signals.asked()
        with stop.listening():
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop()
        assert outside == [] and signals.asked()
    with signals.raised():
        assert not signals.asked()


@posix
def test_ctrl_c_while_a_plugin_is_imported_is_nobodys_fault(tmp_path: Path) -> None:
    """The same exception, with a signal before it and without."""
    (tmp_path / "asks.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nraise KeyboardInterrupt\n"
    )
    (tmp_path / "raises.py").write_text("raise KeyboardInterrupt\n")
    for name, expected in (("asks", KeyboardInterrupt), ("raises", PluginError)):
        value = f"{tmp_path}/{name}.py:X"
        registry.trust(value)
        with pytest.raises(expected), signals.raised():
            registry.get("objective", value)


@posix
def test_a_signal_at_pythons_own_end_changes_no_code(environment: dict[str, str]) -> None:
    code = (
        "import atexit, os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "atexit.register(os.kill, os.getpid(), signal.SIGINT)\n"
        "sys.argv = ['aegen', '--help']\n"
        "from aegen.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "Usage" in done.stdout
