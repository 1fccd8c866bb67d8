"""``Outcome``: what a run did, filled while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from featcache.records import Failure

__all__ = ["ADVICE", "STAGES", "Outcome"]

STAGES = ("read", "decode", "preprocess", "transfer", "encode", "write")
"""Of the pipeline, in order."""

ADVICE = {
    "read": "a faster disk, or a copy of the images on a local one",
    "decode": "more --workers, or several models in one call, which decode each image once",
    "preprocess": "more --workers, or smaller images",
    "transfer": "a GPU with a faster connection",
    "encode": "a GPU, more of them (--devices), --precision bf16, or a smaller model",
    "write": "a faster disk for the home",
}
"""What would relieve a stage that the others wait for."""


@dataclass(slots=True)
class Outcome:
    """What a run did for one encoder."""

    computed: int = 0
    """Rows committed."""
    failures: list[Failure] = field(default_factory=list)
    """Samples that gave no features."""
    constant: list[str] = field(default_factory=list)
    """Ids of two-dimensional images without any contrast."""
    decoded_anew: int = 0
    """Images whose kept pixels are damaged."""
    seconds: float = 0.0
    """Wall time of the run."""
    busy: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    """Seconds that each stage worked; for those of the reading processes their mean."""
    bottleneck: str | None = None
    """The stage that the others waited for."""
    batch_size: int = 0
    """Images a forward pass, at the end of the run."""
    workers: int = 0
    """Reading processes."""
    halved: bool = False
    """The batch was halved, since the device's memory was too small."""
