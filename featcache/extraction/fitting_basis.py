"""``fit_basis``: principal components of a dataset's own tokens, without labels, from a seeded sample of its images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ConfigurationError
from featcache.extraction.jobs import Job
from featcache.extraction.plan import Plan
from featcache.extraction.reading import JobReader, Recipe, Space
from featcache.models import Encoder
from featcache.store import TokenForm

__all__ = ["BASIS_IMAGES", "BASIS_SEED", "fit_basis", "principal_components"]

BASIS_IMAGES = 256
"""Images whose tokens the components are fitted on, at most."""

BASIS_SEED = 0
"""Of their choice among the digests of the whole dataset."""

_TOKENS_AN_IMAGE = 256


def fit_basis(plan: Plan, encoder: Encoder, form: TokenForm, device: str, batch_size: int) -> NDArray[np.float32]:
    """Mean and principal components of the tokens of each layer.

    The images are a seeded choice of the dataset's distinct digests, so that every shard, every resumed run and
    every machine fits on the same ones, whatever their labels, splits and names are. Images that cannot be read are
    replaced by the next. Of each at most 256 tokens count, also a seeded choice.

    Parameters
    ----------
    plan
        Of the extraction.
    encoder
        On its device.
    form
        Layers and number of components d.
    device, batch_size
        Of the run.

    Returns
    -------
    ndarray
        (layers, 1 + d, D) float32: the mean, and below it the components, the largest variance first; of each the
        number with the largest magnitude is positive.

    Raises
    ------
    ConfigurationError
        If there are fewer tokens than components.
    """
    width = cast(tuple[int, ...], encoder.patches)[-1]
    sums = np.zeros((form.layers, width))
    products = np.zeros((form.layers, width, width))
    count = 0
    for patches in _patches(plan, encoder, form, device, batch_size):
        for layer, tokens in enumerate(patches):
            sums[layer] += tokens.sum(axis=0)
            products[layer] += tokens.T @ tokens
        count += patches.shape[1]
    components = cast(int, form.pca)
    if count <= components:
        raise ConfigurationError(
            f"{count} tokens of the dataset can be read, too few for {components} principal components",
            remedy="Lower --token-pca.",
        )
    return np.stack([principal_components(*each, count, components) for each in zip(sums, products, strict=True)])


def principal_components(
    total: NDArray[np.float64], products: NDArray[np.float64], count: int, components: int
) -> NDArray[np.float32]:
    """(1 + d, D) mean and components from the sum of vectors and the sum of their outer products.

    Examples
    --------
    >>> X = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 1.0], [3.0, 1.0]])
    >>> principal_components(X.sum(axis=0), X.T @ X, 4, 1).tolist()
    [[1.5, 0.5], [1.0, 0.0]]
    """
    mean = total / count
    _, vectors = np.linalg.eigh(products / count - np.outer(mean, mean))
    chosen = vectors[:, ::-1][:, :components].T
    largest = np.take_along_axis(chosen, np.abs(chosen).argmax(axis=1)[:, None], axis=1)
    return np.vstack([mean, chosen * np.sign(largest)]).astype(np.float32)


def _patches(
    plan: Plan, encoder: Encoder, form: TokenForm, device: str, batch_size: int
) -> Iterator[NDArray[np.float64]]:
    """(layers, tokens, D) of a batch of the chosen images after the other."""
    import torch

    rng = np.random.default_rng(BASIS_SEED)
    crop, left = plan.preprocess.crop, BASIS_IMAGES
    batch = torch.zeros(batch_size, 3, crop, crop)
    reader = JobReader([Recipe(plan.preprocess)])
    jobs = _jobs(plan, rng)
    while left:
        filled = 0
        for job in jobs:
            seconds = dict.fromkeys(("read", "decode", "preprocess"), 0.0)
            if reader.read(job, 0, [Space(batch[filled])], seconds).failures[0] is None:
                filled += 1
                if filled == min(batch_size, left):
                    break
        if not filled:
            return
        left -= filled
        batch[filled:] = 0
        features: dict[str, Any] = encoder.encode(batch.to(device), patches=True, layers=form.layers)
        patches = features["patches"][:filled].cpu().double().numpy()
        if form.layers == 1:
            patches = patches[:, None]
        tokens = patches.reshape(filled, form.layers, -1, patches.shape[-1])
        places = rng.permutation(tokens.shape[2])[:_TOKENS_AN_IMAGE]
        usable = tokens[np.isfinite(tokens).all(axis=(1, 2, 3))][:, :, places]
        yield usable.transpose(1, 0, 2, 3).reshape(form.layers, -1, tokens.shape[-1])


def _jobs(plan: Plan, rng: np.random.Generator) -> Iterator[Job]:
    """The dataset's distinct images in a seeded order of their digests."""
    rows: dict[bytes, int] = {}
    for row, digest in enumerate(plan.digests):
        if digest is not None:
            rows.setdefault(digest, row)
    names = sorted(rows)
    paths = plan.dataset.samples["path"]
    for place in rng.permutation(len(names)).tolist():
        row = rows[names[place]]
        yield Job(plan.dataset.sample(row), paths.iloc[row], names[place], row)
