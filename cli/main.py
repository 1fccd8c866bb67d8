"""The command group and the one place where errors become messages."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import warnings
from types import FrameType
from typing import Any

import click

from featcache.errors import FeatcacheError

from .catalog import datasets, models
from .demo import demo
from .doctor import doctor
from .exchange import export, import_, merge
from .extract import extract, labels, why
from .preview import preview
from .probe import probe
from .results import compare, results
from .segment import masks, segment
from .store import gc as collect
from .store import info, list_, rm, verify

__all__ = ["cli", "main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="featcache")
@click.option("--debug", is_flag=True, help="Show tracebacks and log messages.")
def cli(debug: bool) -> None:
    """Embed every medical image once; probe the embeddings as often as you like.

    \b
      featcache extract --model dinov2_vits14 --dataset folder --root my_images
      featcache probe knn --k 20
    """
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(name)s: %(message)s")


for command in (
    preview,
    extract,
    probe,
    results,
    compare,
    list_,
    info,
    verify,
    why,
    labels,
    collect,
    rm,
    export,
    import_,
    merge,
    models,
    datasets,
    doctor,
    demo,
    masks,
):
    cli.add_command(command)
probe.add_command(segment)


def main() -> None:
    """Entry point: exit code 0, 1 for an error, 2 for wrong usage or quarantined images, 130 if interrupted."""
    gc.set_threshold(100_000, 20, 20)  # tables of 100,000 rows are many objects, and none of them is garbage
    # Threads that wait for each other sleep instead of spinning: machines are shared. Read when torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "10")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # PyTorch asks for huge pages: clearing small ones takes long
    warnings.showwarning = _show_warning
    signal.signal(signal.SIGTERM, _interrupt)  # a cluster's way to say stop: commit what is finished
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Exit as error:
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; what was committed stays, and the same command goes on from there", err=True)
        code = 130
    except FeatcacheError as error:
        code = _fail(error, str(error))
    except Exception as error:  # noqa: BLE001 - the one error boundary
        remedy = "This is a fault in featcache or its environment; `featcache --debug …` shows where."
        code = _fail(error, f"{type(error).__name__}: {error}\n{remedy}")
    sys.exit(code if isinstance(code, int) else 0)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(click.style("warning: ", fg="yellow", bold=True) + str(message), err=True)


def _fail(error: Exception, message: str) -> int:
    if "--debug" in sys.argv:
        logging.getLogger(__name__).debug("traceback", exc_info=error)
    head, *rest = message.splitlines() or [""]
    click.echo(click.style("error: ", fg="red", bold=True) + head, err=True)
    for line in rest:
        click.echo(f"  {line}", err=True)
    return 1


if __name__ == "__main__":
    main()
