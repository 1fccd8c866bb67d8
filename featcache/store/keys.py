"""The cache key: what makes features differ, and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Key"]


@dataclass(frozen=True, slots=True)
class Key:
    """The specification of one set of features. Stores of equal keys hold equal features for equal images."""

    model: str
    """Registry name or id."""
    weights: str
    """SHA-256 over the sorted (name, dtype, shape, bytes) of the tensors, 64 hexadecimal digits."""
    precision: str
    """Compute precision: fp32, bf16 or fp16."""
    runtime: str
    """What ran the network: torch."""
    dtype: str
    """In which the features are stored: float16 or float32; uint8 for kept pixels."""
    preprocess: Mapping[str, Any]
    """All fields of the preprocessing specification, its version included."""
    decoders: Mapping[str, int]
    """Semantic versions of the decoders that the dataset uses."""
    encoder: int
    """Semantic version of the encoder's wrapper."""

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Key:
        """The inverse of :meth:`as_dict`."""
        return cls(**fields)

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON (sorted, no spaces), 64 hexadecimal digits."""
        canonical = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def store_name(self) -> str:
        """Folder name of the store: the model's name, made safe, and the first 8 digits of the digest."""
        safe = "".join(char if char.isalnum() or char in "._-" else "_" for char in self.model).strip("._")
        return f"{safe[-60:]}-{self.digest[:8]}.zarr"

    def difference(self, other: Key) -> list[str]:
        """The fields in which two keys differ, ``preprocess.crop: 224, there 112``."""
        return sorted(_differences("", self.as_dict(), other.as_dict()))


def _differences(prefix: str, here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    found = []
    for name in sorted({*here, *there}):
        mine, theirs = here.get(name), there.get(name)
        if isinstance(mine, dict) and isinstance(theirs, dict):
            found += _differences(f"{prefix}{name}.", mine, theirs)
        elif mine != theirs:
            found.append(f"{prefix}{name}: {mine}, there {theirs}")
    return found
