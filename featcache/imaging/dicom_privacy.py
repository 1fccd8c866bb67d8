"""What pydicom says of a header stays inside: its warnings and log records quote the values that they complain of."""

from __future__ import annotations

import logging
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["header_text_kept_inside"]

# The form of an entry of warnings.filters: action, message, category, module, line.
_UNSAID = ("ignore", None, Warning, re.compile(r"pydicom(\.|$)"), 0)
_LOGGERS = ("pydicom", "pydicom.pixels.decoders.base", "pydicom.pixels.utils")
_lock = threading.Lock()
_inside = 0
_of_thread = threading.local()


class _Discard(logging.Filter):
    """Drops the records of threads that are inside; those of others pass."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is kept."""
        return not getattr(_of_thread, "depth", 0)


_DISCARD = _Discard()


@contextmanager
def header_text_kept_inside() -> Iterator[None]:
    """Discard warnings and log records of pydicom while a file is read.

    Records are discarded for this thread. Filters of warnings belong to the whole process and there is no other way
    before Python 3.14: while any thread is inside, pydicom warns nobody; afterwards the filters are as before.
    """
    global _inside  # noqa: PLW0603 - it counts threads of the process
    with _lock:
        _inside += 1
        # Again for each entry: a `catch_warnings` elsewhere may have put back an older list meanwhile.
        if _UNSAID not in warnings.filters[:1]:
            warnings.filters.insert(0, _UNSAID)  # type: ignore[attr-defined]
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(_DISCARD)
    _of_thread.depth = getattr(_of_thread, "depth", 0) + 1
    try:
        yield
    finally:
        _of_thread.depth -= 1
        with _lock:
            _inside -= 1
            if _inside == 0:
                warnings.filters[:] = [entry for entry in warnings.filters if entry != _UNSAID]  # type: ignore[index]
                for name in _LOGGERS:
                    logging.getLogger(name).removeFilter(_DISCARD)
