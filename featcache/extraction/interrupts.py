"""SIGINT and SIGTERM around the start of processes: a child must not get them before it is ready for them."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from multiprocessing import resource_tracker

__all__ = ["SIGNALS", "held_back", "let_through"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def held_back(*, spawning: bool) -> Iterator[None]:
    """Start processes that get these signals only once they call :func:`let_through`.

    A terminal sends Ctrl-C to every process of a command, also to one that was forked a moment ago and would treat it
    as its parent does, or that is still importing.

    Parameters
    ----------
    spawning
        Whether they are spawned rather than forked.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    if spawning:
        resource_tracker.ensure_running()  # else the first start runs it, and lets the signals through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_through() -> None:
    """In a process that was started so: get the signals from now on, and one that came meanwhile."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
