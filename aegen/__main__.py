"""`aegen`, `python -m aegen` and `torchrun -m aegen`."""

import os
import signal
import sys

_INTERRUPTED = b"interrupted; nothing is left half-written\n"


def main() -> None:
    """Run the command line; a signal that comes before it is there to hear one has the same sentence and code."""
    if sys.platform != "win32":
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, _leave)
    from aegen.cli import main as run

    run()


def _leave(number: int, frame: object) -> None:
    os.write(2, _INTERRUPTED)
    os._exit(130)


if __name__ == "__main__":
    main()
