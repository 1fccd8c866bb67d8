"""The few types that cross package borders: frozen, slotted, documented field by field; and the study's spacing."""

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
    "Forecast",
    "Image",
    "ProbeRun",
    "PreviewTile",
    "Progress",
    "Result",
    "Sample",
    "Selector",
    "Subgroup",
    "Task",
    "TaskType",
    "VolumeGeometry",
    "evenly_spaced",
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
    array: str | None = None
    """Which array of a file that holds several: ``train_images`` of an ``.npz`` (``index`` is then its row),
    ``tumorMask`` of a ``.mat``; None for the file's only or main one."""
    frame: int | None = None
    """The frame of a multi-frame file, from 0; None for a file that has one or is a volume."""
    time: int | None = None
    """The time point of a 4D file, from 0; None for a file that has one."""
    series: str | None = None
    """The path is a folder and the sample a part of this one of its DICOM series: ``Series.uid``."""

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
class VolumeGeometry:
    """Where the voxels of a volume lie, here (canonical RAS order) and in the file that it was read from."""

    shape: tuple[int, int, int]
    """(X, Y, Z) of the array that :attr:`Image.array` is."""
    affine: NDArray[np.float64]
    """(4, 4), indices of that array to RAS+ millimetres."""
    file_shape: tuple[int, int, int]
    """Of the file's array before its axes were permuted and flipped."""
    file_affine: NDArray[np.float64]
    """(4, 4), indices of the file's array to RAS+, as the file says it, in units of ``file_unit`` mm."""
    file_unit: float = 1.0
    """Millimetres of one unit of ``file_affine``: 1, 1000 (metres) or 0.001 (micrometres)."""


@dataclass(frozen=True, slots=True)
class Task:
    """A question that a dataset's labels can answer."""

    name: str
    """Unique within the dataset."""
    type: TaskType
    """The kind of target."""
    columns: tuple[str, ...]
    """Label columns of the samples table: one, or one per label for ``multilabel`` (0, 1 or missing).

    For ``segmentation`` they name files with the targets, relative to the root; the column ``mask_selector`` says
    which part of them, as ``selector`` does for the image. One column with ``mask_values``: a label map. Otherwise
    one binary mask a foreground class, in the order of ``classes[1:]``, anything but 0 being inside."""
    classes: tuple[str, ...]
    """Class names in the order of the scores; for ``multilabel`` the columns' names; for ``segmentation`` the
    background first."""
    level: TaskLevel = "sample"
    """What one target belongs to."""
    mask_values: tuple[int, ...] | None = None
    """For ``segmentation`` from a label map: the value of each class, in the order of ``classes``. A file with
    another value is refused."""

    def __post_init__(self) -> None:
        if self.mask_values is not None:  # a task that was read from JSON has a list
            object.__setattr__(self, "mask_values", tuple(self.mask_values))


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
class PreviewTile:
    """One sample as the model will see it."""

    id: str
    """The sample's id."""
    label: str
    """Its target in words; empty without a task, ``?`` where it is missing."""
    pixels: NDArray[np.uint8] | None
    """(S, S, 3) the tensor with normalisation undone; None if the image cannot be used."""
    failure: Failure | None
    """Why there are no pixels; set exactly if ``pixels`` is None."""


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
    """Since reading began; of several devices the sum of those that still compute."""
    bottleneck: str
    """The stage that the others have waited for so far."""


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
    bottleneck: str | None
    """The stage that the others waited for: read, decode, preprocess, transfer, encode or write; None when nothing was
    computed."""
    advice: str | None
    """What would relieve it."""
    busy: Mapping[str, float]
    """Each stage's busy share of the pipeline's wall time, 0 to 1; for the reading processes the mean."""
    batch_size: int | None
    """Images a forward pass; None when nothing was computed."""
    workers: int | None
    """Reading processes, of all devices together; None when nothing was computed."""
    precision: str
    """The compute precision, resolved."""
    failures: tuple[Failure, ...]
    """The samples in quarantine."""
    notes: tuple[str, ...]
    """What a user should know about this run, in sentences."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What an extraction would do; its fields are the keys of ``extract --dry-run --json``."""

    model: str
    """Registry name or id."""
    store: Path
    """Where the features would be."""
    rows: int
    """Samples of the dataset whose files can be read."""
    forward_passes: int
    """Rows to compute."""
    saved: int
    """Forward passes that the store, or equal files, save."""
    stored_bytes: int
    """What the new rows take on disk."""
    free_bytes: int
    """What that disk has."""
    device: str
    """On which it would be computed."""
    device_bytes: int | None
    """Memory for weights and one batch: measured on a CUDA device, counted on others; None if it cannot be counted."""
    batch_size: int
    """Images a forward pass."""
    workers: int
    """Reading processes."""
    seconds: float
    """Of the pipeline, from a calibration."""
    images_per_second: float | None
    """From a calibration; None if there is nothing to compute."""
    bottleneck: str | None
    """The side that takes longer: ``read`` (with decoding and preprocessing) or ``encode``."""


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
class Subgroup:
    """The metrics of a part of the rows that were scored."""

    column: str
    """Column of the samples table, such as ``sex``."""
    value: str
    """Its value in these rows; an interval for numbers of many values."""
    n: int
    """Rows."""
    metrics: Mapping[str, Estimate]
    """By metric name."""


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
    scores: NDArray[np.float64] | None
    """(n, n_classes) scores, kept so that two runs can be compared pairwise; None where a run is a mean over
    episodes."""
    per_class: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    """Metric name to class to value, for the metrics that have one for each class."""
    subgroups: tuple[Subgroup, ...] = ()
    """The same metrics of parts of the rows, where they were asked for."""


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
    """Ids of the rows scored (of volumes, where slices were pooled), in the order of the scores."""
    targets: NDArray[Any]
    """(n,) class numbers or (n, L) labels with NaN for missing ones, in the same order."""
    groups: NDArray[np.int64] | None
    """(n,) number of each row's patient; None where no patient is known."""
    notes: tuple[str, ...]
    """What a reader of the numbers must know."""
    seconds: float
    """Wall time of the computation."""
    id: str = ""
    """Name in the ledger; empty for a result that was not recorded."""
    created: str = ""
    """When it was computed, ISO 8601, UTC."""
    fingerprint: str = ""
    """SHA-256 of everything that decides the numbers: request, key, rows, labels, versions."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of featcache and the packages that computed."""
    episodes: Mapping[str, Any] | None = None
    """The support rows of few-shot, to be replayed; None for other probes."""


def evenly_spaced(n: int, k: int) -> NDArray[np.int64]:
    """k evenly spaced places among n: ``round(arange(0, n, n / k))``, the first k of those below n.

    Rounding is to even, as NumPy's. The expression alone gives one place too many for some n and k.

    Examples
    --------
    >>> evenly_spaced(10, 4).tolist()
    [0, 2, 5, 8]
    """
    if not 0 <= k <= n:
        raise ValueError(f"cannot take {k} of {n}")
    if k == 0:
        return np.zeros(0, np.int64)
    places = np.round(np.arange(0, n, n / k)).astype(np.int64)
    return places[places < n][:k]
