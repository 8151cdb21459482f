"""What is said while something is done, and to whom."""

from __future__ import annotations

import logging
from collections.abc import Callable

Say = Callable[[str], None]
"""Called with each line of talk."""


def silent(text: str) -> None:
    """Talk that nobody listens to."""


def warn(say: Say, text: str) -> None:
    """Say what nobody should miss, such as images that are left out.

    Where nobody listens, as in a notebook, it is a warning of the log "aegen", which Python shows on stderr if nothing else is asked for.
    """
    if say is silent:
        logging.getLogger("aegen").warning(text)
    else:
        say(text)
