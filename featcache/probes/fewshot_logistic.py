"""Logistic regressions of many small supports at once: Newton steps by conjugate gradients in the eigenbasis."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from featcache.probes.fewshot_heads import center_gram

__all__ = ["logistic_head"]

Floats: TypeAlias = NDArray[np.float64]
Short: TypeAlias = NDArray[np.floating]
Mask: TypeAlias = NDArray[np.bool_]

_CG_STEPS = 200
_HALVINGS = 30


def logistic_head(
    K: Floats, Y: Floats, known: Mask, *, C: float, multilabel: bool, tol: float = 1e-6, max_iter: int = 100
) -> tuple[Floats, Floats, int]:
    """L2-regularised logistic regression, the intercept not penalised.

    Minimises ``C * sum of losses + |w|^2 / 2``, as scikit-learn does: one softmax over exclusive classes (two of
    them: one weight vector), or a sigmoid for each label. With a penalty on the length, w lies in the span of the
    support, so the problem is solved in n coordinates: those of the eigenvectors of the centred Gram matrix, in
    which the Hessian is close to diagonal (it is at equal probabilities), and conjugate gradients need few steps.

    Parameters
    ----------
    K
        (B, n, n) Gram matrices.
    Y
        (B, n, m) targets 0 and 1; anything finite where not known.
    known
        (B, n, m) entries that count; for exclusive classes a row is known in all columns or in none.
    C
        Inverse strength of the penalty.
    multilabel
        Labels, or exclusive classes. A class without rows is left out of the softmax.
    tol
        Largest component of the gradient at the end, in units of the larger of 1 and C.
    max_iter
        Newton steps.

    Returns
    -------
    A : (B, n, m)
    b : (B, m)
        Zero for a label with one known value and for a class without rows.
    stopped : int
        How many of the B did not reach ``tol``.

    References
    ----------
    Nocedal and Wright, "Numerical Optimization", 2006, algorithm 7.1 (line search Newton-CG).

    Examples
    --------
    >>> known = np.ones((1, 2, 2), dtype=bool)
    >>> A, b, stopped = logistic_head(np.eye(2)[None], np.eye(2)[None], known, C=1.0, multilabel=False)
    >>> A.round(3).tolist(), stopped
    ([[[0.201, -0.201], [-0.201, 0.201]]], 0)
    """
    rows: Floats = np.asarray(known.any(axis=2), dtype=np.float64)
    values, vectors = np.linalg.eigh(center_gram(K, rows))
    positive = np.maximum(values, 0.0)
    kept = values > values[:, -1:] * 1e-13
    target = np.where(known, Y, 0.0)
    active: Mask = np.asarray(target.any(axis=1))
    if multilabel:
        active &= np.asarray((known & (Y == 0)).any(axis=1))
    # Two classes: the softmax splits one weight vector between them, which halves its penalty.
    strength = np.full(len(K), float(C))
    if not multilabel:
        strength[active.sum(axis=1) == 2] /= 2
    problem = _Problem(
        Z=(rotated := vectors * np.sqrt(positive)[:, None, :]),
        # A number as large as some C has no float32.
        single=rotated.astype(np.float32 if C < 1e12 else np.float64),
        spectrum=positive,
        target=target,
        weight=(known & active[:, None, :]).astype(np.float64),
        active=active,
        C=strength[:, None, None],
        multilabel=multilabel,
    )
    solution = np.zeros((K.shape[0], K.shape[1] + 1, Y.shape[2]))
    logits = np.zeros(Y.shape)
    todo, goal = np.arange(len(K)), tol * max(1.0, C)
    for _ in range(max_iter):
        part = problem if len(todo) == len(K) else problem.take(todo)
        gradient, chance = part.gradient(solution[todo], logits[todo])
        going = np.abs(gradient).max(axis=(1, 2)) > goal
        todo = todo[going]
        if not len(todo):
            break
        if not going.all():
            part, gradient, chance = part.take(going), gradient[going], chance[going]
        step = part.newton_step(gradient, chance)
        change = part.Z @ step[:, :-1] + step[:, -1:]
        length = part.search(solution[todo], step, gradient, logits[todo], change)
        solution[todo] += length * step
        logits[todo] += length * change
        if not length.any():
            break
    weights, b = solution[:, :-1], solution[:, -1]
    # Z-coordinates back to dual weights: A = U (weights / sqrt(values)), zero where the spectrum is.
    scale: Floats = np.where(kept, 1 / np.sqrt(np.where(kept, positive, 1.0)), 0.0)
    A = (vectors @ (weights * scale[:, :, None])) * rows[:, :, None]
    A -= rows[:, :, None] * (A.sum(axis=1, keepdims=True) / rows.sum(axis=1, keepdims=True)[:, :, None])
    share = rows / rows.sum(axis=1, keepdims=True)
    b = b - (share[:, None, :] @ K @ A)[:, 0]
    gradient, _ = problem.gradient(solution, problem.Z @ solution[:, :-1] + solution[:, -1:])
    stopped = int((np.abs(gradient).max(axis=(1, 2)) > 10 * goal).sum())
    return A, np.where(active, b, 0.0), stopped


@dataclass(frozen=True, slots=True)
class _Problem:
    """The objective of each support over (B, n + 1, m) parameters, the last row the intercepts."""

    Z: Floats
    """(B, n, n) support rows in the coordinates of the eigenvectors."""
    single: NDArray[np.floating]
    """The same in float32, for the steps: what they miss, the next gradient sees."""
    spectrum: Floats
    """(B, n) eigenvalues: the squared lengths of the columns of Z."""
    target: Floats
    """(B, n, m) 0 and 1."""
    weight: Floats
    """(B, n, m) 1 where an entry counts."""
    active: Mask
    """(B, m) columns that can be learnt."""
    C: Floats
    """(B, 1, 1)."""
    multilabel: bool

    def take(self, index: NDArray[np.int64] | Mask) -> _Problem:
        """Some of the supports."""
        return replace(
            self,
            Z=self.Z[index],
            single=self.single[index],
            spectrum=self.spectrum[index],
            target=self.target[index],
            weight=self.weight[index],
            active=self.active[index],
            C=self.C[index],
        )

    def probabilities(self, logits: Floats) -> Floats:
        """(B, n, m) of (B, n, m)."""
        if self.multilabel:
            sigmoid: Floats = np.exp(-np.logaddexp(0.0, -logits))
            return sigmoid
        power = self._seen(logits)
        power = np.exp(power - power.max(axis=2, keepdims=True))
        softmax: Floats = power / power.sum(axis=2, keepdims=True)
        return softmax

    def loss(self, logits: Floats) -> Floats:
        """(B,) C times the sum of the losses."""
        if self.multilabel:
            loss = ((np.logaddexp(0.0, logits) - self.target * logits) * self.weight).sum(axis=(1, 2))
        else:
            logits = self._seen(logits)
            top = logits.max(axis=2)
            normal = top + np.log(np.exp(logits - top[:, :, None]).sum(axis=2))
            own = np.where(self.target == 1, logits, 0.0).sum(axis=2)
            loss = ((normal - own) * self.weight.max(axis=2)).sum(axis=1)
        value: Floats = self.C[:, 0, 0] * loss
        return value

    def gradient(self, parameters: Floats, logits: Floats) -> tuple[Floats, Floats]:
        """(B, n + 1, m) gradient and the (B, n, m) probabilities."""
        chance = self.probabilities(logits)
        return self._pull((chance - self.target) * self.weight, parameters), chance

    def newton_step(self, gradient: Floats, chance: Floats) -> Floats:
        """Minus the inverse Hessian times the gradient, by preconditioned conjugate gradients."""
        variance = chance * (1 - chance) * self.weight
        mean = variance.sum(axis=1, keepdims=True) / np.maximum(self.weight.sum(axis=1, keepdims=True), 1.0)
        diagonal = np.concatenate(
            [1 + self.C * self.spectrum[:, :, None] * mean, self.C * variance.sum(axis=1, keepdims=True)], axis=1
        )
        kind = self.single.dtype
        inverse = (1 / np.where(diagonal > (1e-12 if kind == np.float32 else 1e-300), diagonal, 1.0)).astype(kind)
        size = np.sqrt(np.square(gradient).sum(axis=(1, 2)))
        goal = np.minimum(0.1, np.sqrt(size))
        # In units of the gradient's length, so that float32 has room.
        scale = np.where(size > 0, size, 1.0)[:, None, None]
        residual = (-gradient / scale).astype(kind)
        step, chance, weight = np.zeros_like(residual), chance.astype(kind), self.weight.astype(kind)
        C = self.C.astype(kind)
        scaled = residual * inverse
        direction, product = scaled, _dot(residual, scaled)
        open_ = np.ones(len(gradient), dtype=bool)
        for _ in range(_CG_STEPS):
            image = self._hessian(direction, chance, weight, C)
            curve = _dot(direction, image)
            open_ &= curve > 0
            rate = np.where(open_, product / np.where(open_, curve, 1.0), 0.0).astype(kind)[:, None, None]
            step += rate * direction
            residual -= rate * image
            open_ &= np.sqrt(_dot(residual, residual)) > goal
            if not open_.any():
                break
            scaled = residual * inverse
            after = _dot(residual, scaled)
            share = np.where(open_, after / np.where(product > 0, product, 1.0), 0.0).astype(kind)
            direction = scaled + share[:, None, None] * direction
            product = after
        return step * scale

    def search(self, start: Floats, step: Floats, gradient: Floats, logits: Floats, change: Floats) -> Floats:
        """(B, 1, 1) the first of the halved lengths of the step that lowers the objective enough, else zero.

        ``logits`` are those of ``start``, ``change`` is what the whole step adds to them: no length costs a product.
        """
        squares = [0.5 * _dot(one[:, :-1], two[:, :-1]) for one, two in ((start, start), (start, step), (step, step))]
        before, slope = self.loss(logits) + squares[0], _dot(gradient, step)
        length = np.ones(len(start))
        for _ in range(_HALVINGS):
            penalty = squares[0] + length * (2 * squares[1] + length * squares[2])
            after = self.loss(logits + length[:, None, None] * change) + penalty
            # The allowance is for rounding: near the optimum the objective is flat in its last digits.
            failed = ~(after <= before + 1e-4 * length * slope + 1e-14 * np.abs(before))
            if not failed.any():
                break
            length = np.where(failed, length / 2, length)
        taken: Floats = np.where(failed, 0.0, length)[:, None, None]
        return taken

    def _seen(self, logits: Floats) -> Floats:
        """Without the classes that have no rows."""
        return logits if self.active.all() else np.where(self.active[:, None, :], logits, -np.inf)

    def _hessian(self, direction: Short, chance: Short, weight: Short, C: Short) -> Short:
        change = self.single @ direction[:, :-1] + direction[:, -1:]
        if self.multilabel:
            change *= 1 - chance
        else:
            change -= np.einsum("bnm,bnm->bn", chance, change)[:, :, None]
        change *= chance
        change *= weight
        image = np.empty_like(direction)
        np.matmul(np.swapaxes(self.single, 1, 2), change, out=image[:, :-1])
        image[:, :-1] *= C
        image[:, :-1] += direction[:, :-1]
        image[:, -1] = C[:, 0] * change.sum(axis=1)
        return image

    def _pull(self, outer: Floats, parameters: Floats) -> Floats:
        """C times the pull-back of (B, n, m) to the parameters, plus the penalty's part."""
        inner = np.swapaxes(self.Z, 1, 2) @ outer
        return np.concatenate([self.C * inner + parameters[:, :-1], self.C * outer.sum(axis=1, keepdims=True)], axis=1)


def _dot(left: NDArray[np.floating], right: NDArray[np.floating]) -> Floats:
    """(B,) inner products; einsum over the two axes as one is several times faster."""
    n = left.shape[1] * left.shape[2]
    dot: Floats = np.vecdot(left.reshape(-1, n), right.reshape(-1, n)).astype(np.float64)
    return dot
