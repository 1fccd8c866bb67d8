"""The few types that cross package borders: frozen, slotted, documented field by field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Axis",
    "Estimate",
    "ExtractionReport",
    "Failure",
    "Image",
    "ProbeRun",
    "Progress",
    "Result",
    "Sample",
    "Selector",
    "Task",
    "TaskType",
]

Axis = Literal["axial", "coronal", "sagittal"]
TaskType = Literal["binary", "multiclass", "multilabel", "segmentation"]
TaskLevel = Literal["sample", "volume", "patient"]


@dataclass(frozen=True, slots=True)
class Selector:
    """Which two-dimensional part of a file a sample is."""

    axis: Axis | None = None
    """The slice axis of a volume; None for a file that is one image, and for volumes whose axes are unknown."""
    index: int | None = None
    """The slice number along ``axis`` in canonical RAS order, from 0; without axis along the array's first."""
    crop: tuple[int, int, int, int] | None = None
    """``(row, column, height, width)`` in pixels of the plane as it is displayed; None for all of it."""
    mirror: bool = False
    """Flip left to right after the crop."""
    frame: int | None = None
    """The frame of a multi-frame file, or the item of a stack of images (``.npy``, ``.npz``), from 0."""
    time: int | None = None
    """The time point of a 4D volume, from 0."""
    series: str | None = None
    """SeriesInstanceUID: the path is a folder, and the sample belongs to this one of its DICOM series."""
    member: str | None = None
    """The array inside an ``.npz`` or ``.mat`` container, for example ``train_images``."""

    def to_text(self) -> str:
        """The canonical JSON: sorted, without defaults, ``""`` for the whole file. Part of the digest."""
        fields = {name: value for name, value in asdict(self).items() if value is not None and value is not False}
        return json.dumps(fields, sort_keys=True, separators=(",", ":")) if fields else ""

    @classmethod
    def from_text(cls, text: str) -> Selector:
        """The inverse of :meth:`to_text`."""
        if not text:
            return cls()
        fields = json.loads(text)
        if "crop" in fields:
            fields["crop"] = tuple(fields["crop"])
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class Sample:
    """One row to be embedded: what an encoder sees as one image."""

    id: str
    """Unique within its dataset."""
    path: Path
    """The file, absolute."""
    selector: Selector = field(default_factory=Selector)
    """The part of the file."""


@dataclass(frozen=True, slots=True)
class Image:
    """The decoded content of one file, or of one series of files."""

    array: NDArray[Any]
    """(H, W) grey, (H, W, 3) RGB, (X, Y, Z) canonical RAS volume or (N, ...) stack of images, in the file's own
    dtype; DICOM in modality units (CT: Hounsfield units), low values dark."""
    kind: Literal["plane", "volume", "stack"]
    """Whether ``array`` is one picture, a volume whose axes are known, or a row of items without geometry."""
    value_range: tuple[float, float]
    """Full scale for 8-bit data (0, 255) and for colour, otherwise the minimum and maximum of the whole file."""
    spacing: tuple[float, ...] | None = None
    """Pixel size in mm along the array's axes: (x, y, z) of a volume, (row, column) of a plane; None if unknown."""
    affine: NDArray[np.float64] | None = None
    """(4, 4), indices of a volume's array to millimetres in the RAS+ world of NIfTI; None if unknown."""
    modality: str | None = None
    """DICOM modality (``CT``, ``MR``, ``DX``, ...); None where the file says none."""
    unit: str | None = None
    """What the values measure, ``HU`` for CT; None if unknown."""
    photometric: str | None = None
    """DICOM photometric interpretation as stored, before MONOCHROME1 was inverted and colour became RGB."""
    windows: tuple[tuple[float, float], ...] = ()
    """(centre, width) of the windows that a DICOM header recommends, in the units of ``array``; not applied."""
    window_function: Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"] = "LINEAR"
    """How a window is to be applied (DICOM PS3.3 C.11.2.1.2)."""
    voi_lut: tuple[int, NDArray[Any]] | None = None
    """A recommended display table: value of ``array`` that the first entry is for, entries; not applied."""
    notes: tuple[str, ...] = ()
    """What a careful user should know of this image, in sentences."""


@dataclass(frozen=True, slots=True)
class Task:
    """A question that a dataset's labels can answer."""

    name: str
    """Unique within the dataset."""
    type: TaskType
    """The kind of target."""
    columns: tuple[str, ...]
    """Label columns of the samples table: one, or one per label for ``multilabel`` (0, 1 or missing)."""
    classes: tuple[str, ...]
    """Class names in the order of the scores; for ``multilabel`` the columns' names."""
    level: TaskLevel = "sample"
    """What one target belongs to."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A sample that was quarantined instead of becoming a feature."""

    id: str
    """The sample's id."""
    path: str
    """Its file, relative to the dataset's root."""
    reason: str
    """What is wrong."""
    remedy: str
    """What to do about it."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an extraction has come; passed to progress callbacks."""

    done: int
    """Rows finished, failures included."""
    total: int
    """Rows to compute in this run."""
    failed: int
    """Rows quarantined so far."""
    images_per_second: float
    """Since the first batch."""


@dataclass(frozen=True, slots=True)
class ExtractionReport:
    """The outcome of one ``extract``; its fields are the keys of ``--json``."""

    store: Path
    """The feature store."""
    key: str
    """The full cache key, 64 hexadecimal digits."""
    model: str
    """Registry name or id of the model."""
    dataset: str
    """Name of the dataset in the home."""
    rows: int
    """Rows of the dataset that have features now."""
    computed: int
    """Rows embedded in this run."""
    reused: int
    """Rows that needed no forward pass: committed before, or duplicates of a row embedded in this run."""
    failed: int
    """Samples without features: the length of ``failures``."""
    seconds: float
    """Wall time of the whole call."""
    images_per_second: float | None
    """Rows embedded per second of the pipeline; None when nothing was computed."""
    bottleneck: Literal["read", "encode", "write"] | None
    """The stage that was busy longest; None when nothing was computed."""
    busy: Mapping[str, float]
    """Each stage's busy share of the pipeline's wall time, 0 to 1."""
    precision: str
    """The compute precision, resolved."""
    failures: tuple[Failure, ...]
    """The samples in quarantine."""
    notes: tuple[str, ...]
    """What a user should know about this run, in sentences."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric with its bootstrap confidence interval."""

    value: float
    """The point estimate; NaN where it is undefined."""
    low: float
    """Lower bound."""
    high: float
    """Upper bound."""


@dataclass(frozen=True, slots=True)
class ProbeRun:
    """The scores of one setting of a probe on one split."""

    parameters: Mapping[str, Any]
    """What distinguishes this run from the others, for example ``{"k": 20}``."""
    split: str
    """The split that was scored."""
    n: int
    """Rows scored."""
    metrics: Mapping[str, Estimate]
    """By metric name."""
    scores: NDArray[np.float64]
    """(n, n_classes) scores, kept so that two runs can be compared pairwise."""


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one probe."""

    probe: str
    """The probe's name."""
    dataset: str
    """Name of the dataset in the home."""
    model: str
    """Registry name or id of the model."""
    key: str
    """The cache key of the features."""
    task: str
    """The task's name."""
    classes: tuple[str, ...]
    """Class names, in the order of the scores' columns."""
    config: Mapping[str, Any]
    """Every setting of the probe, defaults resolved."""
    runs: tuple[ProbeRun, ...]
    """One per setting."""
    ids: tuple[str, ...]
    """Ids of the rows scored, in the order of the scores."""
    notes: tuple[str, ...]
    """What a reader of the numbers must know."""
    seconds: float
    """Wall time."""
