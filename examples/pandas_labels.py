"""Join features, samples and labels of your own in pandas.

featcache extract --model pixels --dataset brain_regions
python examples/pandas_labels.py
"""

import numpy as np
import pandas as pd

import featcache

store = featcache.open("brain_regions", model="pixels")
samples = store.samples  # one row per feature row, in the same order
depth = pd.DataFrame({"region": ["thalamus", "basal_ganglia", "hippocampus_amygdala"], "deep": True})
table = samples.merge(depth, how="left", on="region")
table["deep"] = table["deep"].notna()
table["brightness"] = np.asarray(store["cls"]).mean(axis=1)
print(table.groupby(["deep", "region"])["brightness"].agg(["count", "mean", "std"]).round(2))
