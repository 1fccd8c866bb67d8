"""Which of a store's patch tokens a segmentation head reads."""

from __future__ import annotations

from featcache.errors import ProbeError
from featcache.registry import nearest
from featcache.store import FeatureStore, TokenForm

__all__ = ["chosen_tokens"]


def chosen_tokens(store: FeatureStore, name: str | None, *, layered: bool) -> str:
    """The name of the array of tokens for a head.

    Parameters
    ----------
    store
        What there is.
    name
        What was asked for; None for the encoder's own numbers where the store has them.
    layered
        Whether the head reads several layers. Others read the last layer of any tokens.

    Raises
    ------
    ProbeError
        If the store has no tokens, not those, or several that could be meant.
    """
    held = {family: form for family in store.names if (form := TokenForm.of_family(family)) is not None}
    if not held:
        raise ProbeError(
            f"{store.path.name} has no patch tokens: a segmentation head reads them",
            remedy="Run the same `featcache extract` with --patches: only the tokens are computed.",
        )
    if name is not None:
        if name not in held:
            raise ProbeError(
                f"{store.path.name} has no tokens {name!r}{nearest(name, held)}",
                remedy=f"It has: {', '.join(held)}.",
            )
        return name
    fitting = [family for family, form in held.items() if not layered or form.layers > 1] or list(held)
    plain = [family for family in fitting if held[family].is_plain]
    if not layered and "patches" in plain:
        return "patches"
    candidates = plain or fitting
    if len(candidates) > 1:
        raise ProbeError(
            f"{store.path.name} has several forms of patch tokens: {', '.join(candidates)}",
            remedy="Say which with --tokens.",
        )
    return candidates[0]
