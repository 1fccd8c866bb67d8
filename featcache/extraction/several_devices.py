"""One process a device: each runs a shard of the same extraction, the parent joins what they say."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Any, cast

from featcache.errors import ConfigurationError, FeatcacheError
from featcache.extraction.devices import processors
from featcache.extraction.interrupts import SIGNALS, held_back, let_through
from featcache.extraction.sharding import PACKED_LATER, Shard
from featcache.records import ExtractionReport, Progress

__all__ = ["extract_on_devices", "listed_devices"]

_TOGETHER = 2.0
"""Seconds within which two interrupts are one."""

_LOOK_AROUND = 2.0
"""Seconds without a message after which the processes are looked at."""

_AGAIN = "Run the same command again: it computes what is missing."


def listed_devices(devices: str | Sequence[str] | None, device: str = "auto") -> list[str]:
    """Devices as torch names them, from ``"0,1"``, ``"cpu,cpu"`` or a list; a number is a CUDA device.

    Raises
    ------
    ConfigurationError
        If a name is empty, or one ``device`` is given as well.

    Examples
    --------
    >>> listed_devices("0, 3"), listed_devices(["cpu", "cpu"]), listed_devices(None)
    (['cuda:0', 'cuda:3'], ['cpu', 'cpu'], [])
    """
    if devices is None:
        return []
    if device != "auto":
        raise ConfigurationError(
            f"both device {device!r} and devices {devices!r} are given", remedy="Give one of them."
        )
    names = [str(name).strip() for name in (devices.split(",") if isinstance(devices, str) else devices)]
    if not names or not all(names):
        raise ConfigurationError(f"devices {devices!r} name nothing", remedy="Write --devices 0,1 or cpu,cpu.")
    return [f"cuda:{name}" if name.isdecimal() else name for name in names]


def extract_on_devices(
    devices: Sequence[str],
    arguments: Mapping[str, Any],
    *,
    shard: Shard | None = None,
    total: int,
    progress: Callable[[Progress], None] | None = None,
) -> tuple[ExtractionReport, ...]:
    """Run shard i of n on the i-th of n devices, each in a process of its own, and join their reports.

    A process that dies takes none of the others along: they finish what is theirs, then this raises. On
    KeyboardInterrupt all commit what is finished before it is raised again.

    Parameters
    ----------
    devices
        n names for torch.
    arguments
        For :func:`featcache.extract_models` in each process; picklable.
    shard
        (j, m) if this call itself is the j-th of m: the processes divide that shard among them, given that the
        others have as many devices.
    total
        Rows to compute.
    progress
        Called with the sums of all processes.

    Returns
    -------
    tuple of ExtractionReport
        One a model: sums over the processes; ``seconds`` of the slowest, ``busy`` their mean.

    Raises
    ------
    FeatcacheError
        If a process died or could not do its part: which, how, and what the others computed.
    """
    number, count = shard or (1, 1)
    parts = [((number - 1) * len(devices) + place, count * len(devices)) for place in range(1, len(devices) + 1)]
    children = []
    try:
        for device, part in zip(devices, parts, strict=True):
            children.append(_start(device, part, arguments, len(devices)))
        _follow(children, total, progress)
    except BaseException:
        _stop(children)
        raise
    found = [child.reports for child in children if child.reports is not None]
    if len(found) < len(children):
        raise _failed([child for child in children if child.reports is None], [one for own in found for one in own])
    joined = [_joined(parts) for parts in zip(*found, strict=True)]
    if shard is None:
        joined = [
            replace(report, notes=tuple(note for note in report.notes if note != PACKED_LATER)) for report in joined
        ]
    return tuple(joined)


@dataclass(frozen=True, slots=True)
class _Error:
    """What a process raised."""

    message: str
    remedy: str | None


@dataclass(slots=True)
class _Child:
    """One process as the parent sees it."""

    name: str
    process: SpawnProcess
    connection: Connection
    latest: Progress | None = None
    reports: tuple[ExtractionReport, ...] | None = None
    error: _Error | None = None

    def receive(self) -> bool:
        """Take one message; False once it will say no more."""
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            self.connection.close()
            self.process.join()
            return False
        if isinstance(message, Progress):
            self.latest = message
        elif isinstance(message, _Error):
            self.error = message
        else:
            self.reports = message
        return True

    def is_gone(self) -> bool:
        """Whether it has ended and has no more to say, though a process that it started may hold its end."""
        if self.process.is_alive() or self.connection.poll():
            return False
        self.connection.close()
        return True

    def fate(self) -> str:
        """What became of a process without a report."""
        if self.error is not None:
            return f"{self.name}: {self.error.message}"
        code = self.process.exitcode or 0
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"{self.name} died of {signal.Signals(-code).name}"
        return f"{self.name} ended with exit code {code}"


def _start(device: str, part: Shard, arguments: Mapping[str, Any], count: int) -> _Child:
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    name = f"process {part[0]}/{part[1]} on {device}"
    own = {**arguments, "device": device, "shard": part}
    process = context.Process(target=_work, args=(sending, own, count), name=name)
    with held_back(spawning=True):
        process.start()
    sending.close()
    return _Child(name, process, receiving)


def _follow(children: Sequence[_Child], total: int, progress: Callable[[Progress], None] | None) -> None:
    """Listen until all have ended."""
    open_ones = {child.connection: child for child in children}
    while open_ones:
        ready = wait(list(open_ones), _LOOK_AROUND)
        for connection in ready:
            child = open_ones[cast(Connection, connection)]
            before = child.latest
            if not child.receive():
                del open_ones[cast(Connection, connection)]
            elif child.latest is not before and progress is not None:
                progress(_summed([one.latest for one in children if one.latest is not None], total))
        if not ready:
            open_ones = {connection: child for connection, child in open_ones.items() if not child.is_gone()}


def _summed(latest: Sequence[Progress], total: int) -> Progress:
    at_work = [one for one in latest if one.done < one.total]
    return replace(
        latest[-1],
        done=sum(one.done for one in latest),
        total=max(total, sum(one.total for one in latest)),
        failed=sum(one.failed for one in latest),
        # Of those that still compute: what the others did brings the end no nearer.
        images_per_second=sum(one.images_per_second for one in at_work or latest),
    )


def _stop(children: Sequence[_Child]) -> None:
    """Have all commit what is finished, and wait for it."""
    for child in children:
        if child.process.is_alive() and child.process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.process.pid, signal.SIGINT)
    for child in children:
        while not child.connection.closed and not child.is_gone():  # nobody waits for a full pipe
            if child.connection.poll(_LOOK_AROUND):
                child.receive()
        child.process.join()


def _failed(children: Sequence[_Child], reports: Sequence[ExtractionReport]) -> FeatcacheError:
    errors = [child.error for child in children]
    if not reports and errors[0] is not None and len(set(errors)) == 1:  # the fault of the command, not of a process
        return FeatcacheError(errors[0].message, remedy=errors[0].remedy)
    computed = sum(report.computed for report in reports)
    done = f"{len(reports)} other{'s' * (len(reports) > 1)} finished, {computed} images computed"
    said = [error.remedy for error in errors if error is not None and error.remedy is not None]
    remedies = dict.fromkeys([*said, _AGAIN])
    return FeatcacheError("; ".join([*(child.fate() for child in children), done]), remedy=" ".join(remedies))


def _joined(reports: Sequence[ExtractionReport]) -> ExtractionReport:
    """One report of all parts."""
    computing = [report for report in reports if report.images_per_second is not None and report.computed]
    stages = dict.fromkeys(stage for report in computing for stage in report.busy)
    busy = {stage: sum(report.busy.get(stage, 0.0) for report in computing) / len(computing) for stage in stages}
    computed = sum(report.computed for report in reports)
    # Of the slowest: while it works, the others have ended or work as well.
    computing.sort(key=lambda report: report.computed / (report.images_per_second or 1.0), reverse=True)
    seconds = computing[0].computed / (computing[0].images_per_second or 1.0) if computing else 0.0
    failures = sorted((failure for report in reports for failure in report.failures), key=lambda failure: failure.id)
    return replace(
        (computing or reports)[0],
        rows=sum(report.rows for report in reports),
        computed=computed,
        reused=sum(report.reused for report in reports),
        failed=len(failures),
        seconds=max(report.seconds for report in reports),
        images_per_second=computed / seconds if seconds else None,
        busy=busy,
        workers=sum(report.workers or 0 for report in computing) or None,
        failures=tuple(failures),
        notes=tuple(dict.fromkeys(note for report in reports for note in report.notes)),
    )


def _work(connection: Connection, arguments: dict[str, Any], count: int) -> None:
    """What a process does: its shard, on its device, with its share of the processors."""

    def say(message: Progress | tuple[ExtractionReport, ...] | _Error) -> None:
        with contextlib.suppress(OSError):  # a parent that was killed listens no more: the work goes on
            connection.send(message)

    try:
        import torch

        from featcache.extraction.extract import extract_models

        interrupt = _Interrupt()
        for number in SIGNALS:
            signal.signal(number, interrupt)
        let_through()  # only now: an import that is interrupted fails in odd ways
        share = max(1, processors() // count)
        torch.set_num_threads(share)
        say(extract_models(**{**arguments, "workers": arguments.get("workers") or share}, progress=say))
    except FeatcacheError as error:
        say(_Error(error.message, error.remedy))
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


class _Interrupt:
    """Raises once for all that come together: a terminal tells every process, and the parent passes it on as well."""

    def __init__(self) -> None:
        self._last = -math.inf

    def __call__(self, number: int, frame: FrameType | None) -> None:
        before, self._last = self._last, time.monotonic()
        if self._last - before > _TOGETHER:
            raise KeyboardInterrupt
