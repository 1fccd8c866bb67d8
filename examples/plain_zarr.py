"""Read a store with plain zarr, without featcache.

featcache extract --model pixels --dataset brain_regions
python examples/plain_zarr.py <the store that it printed>
"""

import sys

import numpy as np
import zarr

group = zarr.open_group(sys.argv[1], mode="r")
print("made by", group.attrs["featcache"]["spec"]["model"])
digests = group["digests"][:]
cls = group["cls"][:]
written = digests.any(axis=1) & ~np.isnan(cls).any(axis=1)  # docs/format.md: other rows are not committed
print(f"{written.sum()} rows of {cls.shape[1]} features in {cls.dtype}")
print("first id:", group["ids"][int(np.flatnonzero(written)[0])])
