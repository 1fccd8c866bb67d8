"""A map of embeddings: one point a sample, one colour a class."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ConfigurationError, MissingDependencyError

__all__ = ["draw_embedding_map"]


def draw_embedding_map(
    features: Mapping[str, NDArray[np.float32]],
    labels: NDArray[np.str_],
    path: Path,
    *,
    classes: Sequence[str] | None = None,
    seed: int = 0,
) -> Path:
    """Draw one t-SNE map per set of features, side by side, as a PNG.

    Features are standardised, reduced to 50 principal components and laid out by t-SNE (van der Maaten &
    Hinton 2008) on cosine distances. Such a map shows neighbourhoods; distances between clusters mean little.

    Parameters
    ----------
    features
        (n, D) by title.
    labels
        (n,) class names.
    path
        The PNG to write; its folder is made.
    classes
        Order of the colours; default sorted.
    seed
        Of the layout.

    Returns
    -------
    Path
        ``path``.

    Raises
    ------
    MissingDependencyError
        If matplotlib is not installed.
    ConfigurationError
        If the rows of features and labels differ in number.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            "pictures need matplotlib, which is not installed", remedy="pip install 'featcache[plots]'"
        ) from error
    names = sorted(set(labels.tolist())) if classes is None else list(classes)
    figure = Figure(figsize=(5.2 * len(features), 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(features), squeeze=False)[0]
    for axis, (title, matrix) in zip(axes, features.items(), strict=True):
        if len(matrix) != len(labels):
            raise ConfigurationError(f"{title}: {len(matrix)} rows of features, {len(labels)} labels")
        places = _layout(matrix, seed)
        for index, name in enumerate(names):
            rows = labels == name
            axis.scatter(*places[rows].T, s=9, linewidths=0, alpha=0.85, color=f"C{index % 10}", label=name)
        axis.set(title=title, xticks=[], yticks=[])
    handles, texts = axes[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=min(len(names), 8), markerscale=2.5, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    figure.savefig(partial, format="png", dpi=110)
    partial.replace(path)
    return path


def _layout(matrix: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """(n, 2) places of (n, D) features."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from sklearn.preprocessing import StandardScaler

    scaled = StandardScaler().fit_transform(matrix)
    components = min(50, *scaled.shape)
    reduced = PCA(components, svd_solver="full").fit_transform(scaled)
    perplexity = min(30.0, max(1.0, (len(matrix) - 1) / 3))
    layout = TSNE(perplexity=perplexity, metric="cosine", init="random", random_state=seed)
    places: NDArray[np.float32] = layout.fit_transform(reduced)
    return places
