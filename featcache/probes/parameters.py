"""What scikit-learn asks of an estimator, without importing it."""

from __future__ import annotations

import inspect
import sys
from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ConfigurationError, ProbeError

__all__ = ["Decider", "Parameters", "not_fitted"]


class Parameters:
    """Base of estimators whose ``__init__`` only stores its arguments.

    It makes ``sklearn.base.clone``, ``GridSearchCV`` over the settings, and scikit-learn's checks possible.

    Examples
    --------
    >>> class Ridge(Parameters):
    ...     def __init__(self, l2=1.0):
    ...         self.l2 = l2
    >>> Ridge(2.0).get_params()
    {'l2': 2.0}
    """

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of ``__init__`` by name; ``deep`` is there for scikit-learn: nothing is nested."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **parameters: Any) -> Self:
        """Replace some of them.

        Raises
        ------
        ConfigurationError
            For a name that ``__init__`` does not have.
        """
        known = inspect.signature(type(self)).parameters
        for name, value in parameters.items():
            if name not in known:
                raise ConfigurationError(
                    f"{type(self).__name__} has no parameter {name!r}", remedy=f"It has {', '.join(known)}."
                )
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        """The class and the settings that are not the defaults."""
        defaults = {name: parameter.default for name, parameter in inspect.signature(type(self)).parameters.items()}
        given = [
            f"{name}={value!r}" for name, value in self.get_params().items() if repr(value) != repr(defaults[name])
        ]
        return f"{type(self).__name__}({', '.join(given)})"

    def __sklearn_is_fitted__(self) -> bool:
        """Whether ``fit`` has set anything."""
        return any(name.endswith("_") and not name.startswith("_") for name in vars(self))

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn may expect: numbers without gaps, targets that are class numbers or labels.

        Called by scikit-learn only, which is then there to be imported.
        """
        from sklearn.utils import InputTags, Tags, TargetTags

        return Tags(
            estimator_type=None,
            target_tags=TargetTags(required="y" in inspect.signature(type(self).fit).parameters),  # type: ignore[attr-defined]
            input_tags=InputTags(),
            transformer_tags=None,
            classifier_tags=None,
            regressor_tags=None,
        )


class Decider(Parameters, ABC):
    """Base of probes whose scores are one array: what they decide, as scikit-learn's scorers ask for it."""

    multilabel_: bool
    classes_: NDArray[np.int64]

    @abstractmethod
    def predict_scores(self, X: Any) -> NDArray[np.float64]:
        """(n, C) scores between 0 and 1."""

    def predict(self, X: Any) -> NDArray[np.int64]:
        """(n,) classes of the largest score, the first of equal ones; of labels (n, L) whether it is at least 0.5.

        Raises
        ------
        ProbeError
            If the features are invalid or the probe is not fitted.
        """
        scores = self.predict_scores(X)
        return (scores >= 0.5).astype(np.int64) if self.multilabel_ else self.classes_[scores.argmax(axis=1)]


def not_fitted(what: str = "the probe") -> ProbeError:
    """The error of a use before ``fit``: also scikit-learn's ``NotFittedError`` for those who have it loaded.

    Examples
    --------
    >>> not_fitted().message
    'the probe is not fitted'
    """
    exceptions = sys.modules.get("sklearn.exceptions")
    kind: type[ProbeError] = ProbeError
    if exceptions is not None:
        kind = type("ProbeNotFittedError", (ProbeError, exceptions.NotFittedError), {})
    return kind(f"{what} is not fitted", remedy="Call fit first.")
