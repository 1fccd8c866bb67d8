"""Tables, JSON and the progress bar."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from featcache.records import Estimate, Progress, Result

__all__ = [
    "duration",
    "estimate",
    "explained",
    "number",
    "print_json",
    "print_notes",
    "print_table",
    "progress_bar",
    "result_dict",
    "size",
]


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Print rows under a header; numbers to the right, text to the left."""
    names = list(columns or (rows[0] if rows else ()))
    cells = [[_text(row.get(name)) for name in names] for row in rows]
    widths = [max([len(name), *(len(row[index]) for row in cells)]) for index, name in enumerate(names)]
    right = [bool(rows) and all(isinstance(row.get(name), int | float) for row in rows) for name in names]

    def line(values: Sequence[str]) -> str:
        aligned = [
            value.rjust(width) if to_right else value.ljust(width)
            for value, width, to_right in zip(values, widths, right, strict=True)
        ]
        return "  ".join(aligned).rstrip()

    click.echo(click.style(line(names), bold=True))
    for row in cells:
        click.echo(line(row))


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object; NaN becomes null, paths become text."""
    click.echo(json.dumps(_plain(value), indent=1, ensure_ascii=False))


def explained(reason: str, remedy: str) -> str:
    """Why something cannot be used and what to do, as two sentences."""
    end = "" if not remedy or reason.endswith((".", "!", "?")) else "."
    return f"{reason}{end} {remedy}".rstrip()


def print_notes(notes: Sequence[str]) -> None:
    """Print sentences that belong to the numbers above."""
    for note in notes:
        click.echo(f"note: {note}")


def result_dict(result: Result) -> dict[str, Any]:
    """A probe's result as ``--json`` prints it (``docs/schemas/probe.schema.json``)."""
    return {
        "probe": result.probe,
        "dataset": result.dataset,
        "model": result.model,
        "key": result.key,
        "task": result.task,
        "classes": list(result.classes),
        "id": result.id,
        "created": result.created,
        "fingerprint": result.fingerprint,
        "versions": dict(result.versions),
        "config": dict(result.config),
        "runs": [
            {
                **run.parameters,
                "split": run.split,
                "n": run.n,
                "metrics": _estimates(run.metrics),
                "per_class": {name: _estimates(values) for name, values in run.per_class.items()},
                "subgroups": [
                    {"column": part.column, "value": part.value, "n": part.n, "metrics": _estimates(part.metrics)}
                    for part in run.subgroups
                ],
            }
            for run in result.runs
        ],
        "notes": list(result.notes),
        "seconds": result.seconds,
    }


def _estimates(values: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: {"value": found.value, "ci": [found.low, found.high]} for name, found in values.items()}


def estimate(found: Estimate) -> str:
    """``0.831 [0.794, 0.865]``."""
    return f"{number(found.value)} [{number(found.low)}, {number(found.high)}]"


def number(value: float) -> str:
    """Three decimals; a dash where there is no number."""
    return "-" if math.isnan(value) else f"{value:.3f}"


def size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def changed(path: Path) -> float:
    """When a store changed last, in seconds since 1970."""
    newest = [path] if path.is_file() else (path / "segments").iterdir()
    return max((file.stat().st_mtime for file in newest), default=path.stat().st_mtime)


def duration(seconds: float) -> str:
    """``48 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


@contextmanager
def progress_bar(label: str, quiet: bool = False) -> Iterator[Callable[[Progress], None]]:
    """A bar on stderr with images/s and ETA; plain lines where stderr is no terminal."""
    if quiet or not sys.stderr.isatty():
        yield (lambda _: None) if quiet else _plain_lines(label)
        return
    from tqdm import tqdm

    with tqdm(unit="img", desc=label, file=sys.stderr, dynamic_ncols=True) as bar:

        def update(progress: Progress) -> None:
            bar.total = progress.total
            bar.set_postfix(failed=progress.failed, waits_for=progress.bottleneck, refresh=False)
            bar.update(progress.done - bar.n)

        yield update


def _plain_lines(label: str) -> Callable[[Progress], None]:
    last = -math.inf

    def update(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < 10 and progress.done < progress.total:
            return
        last = now
        remaining = (progress.total - progress.done) / max(progress.images_per_second, 1e-9)
        click.echo(
            f"{label}: {progress.done}/{progress.total} images, {progress.images_per_second:.1f}/s, "
            f"ETA {duration(remaining)}, {progress.failed} failed, waits for {progress.bottleneck}",
            err=True,
        )

    return update


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return number(value) if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.item() if hasattr(value, "item") else value
