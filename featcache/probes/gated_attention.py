"""Gated attention over bags, several models side by side, with its gradient.

Ilse, Tomczak and Welling, "Attention-based Deep Multiple Instance Learning", ICML 2018, equations 8 and 9:

    a_k = softmax over the bag of  w . (tanh(V h_k) * sigmoid(U h_k)),    z = sum_k a_k h_k.

A linear layer scores z. Each model (a learning rate, say) is one place of the first axis of every parameter, so that
one product with the rows serves all of them. Bags of unequal size are never padded: sums over a bag are products with a
matrix that is zero where a row is not of the bag.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from featcache.probes.bags import Bags

__all__ = ["Attention", "Parameters", "attend", "attention_gradient", "initial_attention"]

Singles: TypeAlias = NDArray[np.float32]
Parameters: TypeAlias = dict[str, Singles]
"""``V`` and ``U`` (M, D, H), ``w`` (M, H): the attention; ``W`` (M, D, C), ``b`` (M, C): what scores a bag."""


@dataclass(frozen=True, slots=True)
class Attention:
    """What one pass over some bags computed."""

    pooled: Singles
    """(M, B, D) z."""
    weights: Singles
    """(N, M) a: they sum to 1 in each bag."""
    tanh: Singles
    """(N, M, H)."""
    gate: Singles
    """(N, M, H)."""


def initial_attention(n_models: int, width: int, hidden: int, rng: np.random.Generator) -> Parameters:
    """Uniform numbers of Glorot's range, the same for each model.

    Parameters
    ----------
    n_models, width, hidden
        M, D and H.
    rng
        Draws them.

    References
    ----------
    Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010, eq. 16.

    Examples
    --------
    >>> {name: part.shape for name, part in initial_attention(2, 3, 4, np.random.default_rng(0)).items()}
    {'V': (2, 3, 4), 'U': (2, 3, 4), 'w': (2, 4)}
    """
    found = {}
    for name, shape in (("V", (width, hidden)), ("U", (width, hidden)), ("w", (hidden, 1))):
        limit = np.sqrt(6 / sum(shape))
        drawn = rng.uniform(-limit, limit, shape).astype(np.float32)
        found[name] = np.repeat(drawn[None] if name != "w" else drawn.T, n_models, axis=0)
    return found


def attend(bags: Bags, parameters: Parameters) -> Attention:
    """Pool the bags by each model's attention.

    Examples
    --------
    >>> bags = Bags(np.eye(2, dtype=np.float32), np.array([0]))
    >>> parameters = initial_attention(1, 2, 3, np.random.default_rng(0)) | {"w": np.zeros((1, 3), dtype=np.float32)}
    >>> attend(bags, parameters).weights.tolist()
    [[0.5], [0.5]]
    """
    n_models, width, hidden = parameters["V"].shape
    both = np.concatenate([parameters["V"], parameters["U"]]).transpose(1, 0, 2).reshape(width, -1)
    product = (bags.rows @ both).reshape(len(bags.rows), 2, n_models, hidden)
    tanh = np.tanh(product[:, 0])
    gate = 0.5 * (1 + np.tanh(0.5 * product[:, 1]))  # the sigmoid, without overflow
    energy = np.einsum("nmh,mh->nm", tanh * gate, parameters["w"])
    owner = bags.owner
    power = np.exp(energy - np.maximum.reduceat(energy, bags.starts, axis=0)[owner])
    weights = power / np.add.reduceat(power, bags.starts, axis=0)[owner]
    spread = np.zeros((n_models, len(bags), len(owner)), dtype=np.float32)
    spread[:, owner, np.arange(len(owner))] = weights.T
    return Attention(
        (spread.reshape(-1, len(owner)) @ bags.rows).reshape(n_models, len(bags), width), weights, tanh, gate
    )


def attention_gradient(bags: Bags, parameters: Parameters, passed: Attention, outer: Singles) -> Parameters:
    """The gradient of a loss with respect to ``V``, ``U`` and ``w``.

    Parameters
    ----------
    bags, parameters, passed
        Of :func:`attend` and what it gave.
    outer
        (M, B, D) gradient with respect to the pooled bags.

    Returns
    -------
    dict
        As the parameters.

    Examples
    --------
    >>> bags = Bags(np.eye(2, dtype=np.float32), np.array([0]))
    >>> parameters = initial_attention(1, 2, 3, np.random.default_rng(0))
    >>> gradient = attention_gradient(bags, parameters, attend(bags, parameters), np.ones((1, 1, 2), dtype=np.float32))
    >>> {name: part.shape for name, part in gradient.items()}
    {'V': (1, 2, 3), 'U': (1, 2, 3), 'w': (1, 3)}
    """
    n_models, n_bags, width = outer.shape
    owner, n = bags.owner, len(bags.rows)
    by_bag = (bags.rows @ outer.reshape(-1, width).T).reshape(n, n_models, n_bags)
    change = by_bag[np.arange(n), :, owner] * passed.weights
    change -= passed.weights * np.add.reduceat(change, bags.starts, axis=0)[owner]  # through the softmax
    inner = change[:, :, None] * parameters["w"]
    to_tanh = inner * passed.gate * (1 - passed.tanh**2)
    to_gate = inner * passed.tanh * passed.gate * (1 - passed.gate)
    both = bags.rows.T @ np.concatenate([to_tanh, to_gate], axis=1).reshape(n, -1)
    pulled = both.reshape(width, 2, n_models, -1).transpose(1, 2, 0, 3)
    return {
        "V": np.ascontiguousarray(pulled[0]),
        "U": np.ascontiguousarray(pulled[1]),
        "w": np.einsum("nm,nmh->mh", change, passed.tanh * passed.gate),
    }
