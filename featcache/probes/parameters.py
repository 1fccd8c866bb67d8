"""get_params and set_params as scikit-learn defines them, without importing it."""

from __future__ import annotations

import inspect
from typing import Any, Self

from featcache.errors import ConfigurationError

__all__ = ["Parameters"]


class Parameters:
    """Base of estimators whose ``__init__`` only stores its arguments: makes ``sklearn.base.clone`` possible.

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
