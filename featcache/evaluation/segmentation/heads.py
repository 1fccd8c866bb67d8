"""The heads of ``probe segment``, made from settings and the shape of a store's tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, get_args

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ConfigurationError, ProbeError
from featcache.probes.segmentation.token_stream import TokenStream
from featcache.registry import nearest

__all__ = ["HeadSettings", "Segmenter", "make_segmenter", "uses_layers"]

HeadName = Literal["linear", "linear-ms", "unet", "knn"]
LossName = Literal["ce", "dice", "dice+ce"]
SolverName = Literal["sgd", "ridge", "lbfgs"]

_STUDY_RATES = (1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1)


@dataclass(frozen=True, slots=True)
class HeadSettings:
    """Everything that decides a head besides its data."""

    head: HeadName = "linear"
    """``linear``: a 1x1 convolution on the last block's tokens, ``linear-ms`` of several's; ``unet``; ``knn``."""
    loss: LossName = "dice+ce"
    """Of heads that are trained by gradients."""
    solver: SolverName = "sgd"
    """Of linear heads: ``ridge`` and ``lbfgs`` fit class shares at token resolution and need no learning rate."""
    learning_rates: tuple[float, ...] = _STUDY_RATES
    """Tried together, chosen on val."""
    penalties: tuple[float, ...] | None = None
    """Of ``ridge`` and ``lbfgs``; None for their own."""
    epochs: int = 20
    """Passes of ``sgd``."""
    batch_size: int = 8
    """Images of a step."""
    k: int = 20
    """Neighbours of ``knn``."""
    max_tokens: int = 100_000
    """Size of the bank of ``knn``."""
    seed: int = 0
    """Of weights, order and draws."""
    tokens: str | None = None
    """Which patch tokens: ``patches_l5_int8`` …; None for the only ones, or the encoder's own numbers."""
    device: str = "auto"
    """``cpu``, ``cuda`` …; ``auto`` takes a GPU if there is one."""

    def __post_init__(self) -> None:
        for what, value, known in (
            ("head", self.head, get_args(HeadName)),
            ("loss", self.loss, get_args(LossName)),
            ("solver", self.solver, get_args(SolverName)),
        ):
            if value not in known:
                raise ConfigurationError(
                    f"unknown {what} {value!r}{nearest(value, known)}", remedy=f"Known: {', '.join(known)}."
                )
        if self.solver != "sgd" and not self.head.startswith("linear"):
            raise ConfigurationError(
                f"the solver {self.solver!r} is of linear heads, not of {self.head!r}", remedy="Leave --solver out."
            )
        if self.batch_size < 1 or self.epochs < 1:
            raise ConfigurationError(f"{self.epochs} epochs in batches of {self.batch_size} train nothing")


class Segmenter(Protocol):
    """A head: fitted on streams, gives logits on a grid of its own."""

    chosen_: dict[str, Any]
    """What was chosen on val."""
    selection_: list[dict[str, float]]
    """All that was tried, with its Dice on val."""

    def fit(self, train: TokenStream, val: TokenStream | None = None, both: TokenStream | None = None) -> Self:
        """Learn from ``train``, choose on ``val``, learn anew from ``both``."""

    def logits(self, tokens: NDArray[np.float32]) -> NDArray[np.float32]:
        """(b, C, h', w') of (b, ..., h, w, D) tokens."""


def uses_layers(settings: HeadSettings) -> bool:
    """Whether the head reads the tokens of several blocks."""
    return settings.head in ("linear-ms", "unet")


def make_segmenter(settings: HeadSettings, n_classes: int, stream: TokenStream) -> Segmenter:
    """A head for the tokens of a stream.

    Raises
    ------
    ProbeError
        If the head needs the tokens of several blocks and the stream has one.
    """
    if uses_layers(settings) and (stream.layers or 1) < 2:
        raise ProbeError(
            f"the head {settings.head!r} reads the tokens of several blocks, the store has those of the last one",
            remedy="Extract them: featcache extract --patches --layers 5. Or use --head linear.",
        )
    penalties: dict[str, Any] = {} if settings.penalties is None else {"penalties": settings.penalties}
    if settings.head == "knn":
        from featcache.probes.segmentation.knn import KNNSegmenter

        return KNNSegmenter(
            n_classes, k=settings.k, max_tokens=settings.max_tokens, seed=settings.seed, batch_size=settings.batch_size
        )
    if settings.solver == "ridge":
        from featcache.probes.segmentation.ridge import RidgeSegmenter

        return RidgeSegmenter(n_classes, batch_size=settings.batch_size, **penalties)
    if settings.solver == "lbfgs":
        from featcache.probes.segmentation.lbfgs import LBFGSSegmenter

        return LBFGSSegmenter(n_classes, batch_size=settings.batch_size, **penalties)
    return _gradient_segmenter(settings, n_classes, stream)


def _gradient_segmenter(settings: HeadSettings, n_classes: int, stream: TokenStream) -> Segmenter:
    from featcache.probes.segmentation.linear import LinearBank
    from featcache.probes.segmentation.training import GradientSegmenter, HeadBank
    from featcache.probes.segmentation.unet import UNetBank

    device = chosen_device(settings.device)
    common: dict[str, Any] = {"loss": settings.loss, "seed": settings.seed, "device": device}
    width, size, layers = stream.width, stream.size, stream.layers

    def bank(rates: Any) -> HeadBank:
        if settings.head == "unet":
            return UNetBank(layers, width, n_classes, size, rates, **common)
        return LinearBank(width * (layers or 1), n_classes, size, stream.grid, rates, **common)

    return GradientSegmenter(
        bank,
        n_classes,
        learning_rates=settings.learning_rates,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        seed=settings.seed,
        device=device,
    )


def chosen_device(name: str) -> str:
    """The device of a name; ``auto`` is a GPU where there is one.

    Raises
    ------
    ConfigurationError
        If there is no such device.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigurationError(
            f"device {name!r} cannot be used: {str(error).splitlines()[0]}", remedy="Use --device auto, or cpu."
        ) from error
    return name
