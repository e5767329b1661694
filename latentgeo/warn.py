"""Warnings that name the caller's own line, however deep in the package they arise."""

from __future__ import annotations

import sys
import warnings

_PASSED = ("latentgeo", "contextlib", "torch", "sklearn")  # whose frames are none of the caller's


def warn(message: str, category: type[Warning] = RuntimeWarning) -> None:
    """Warn where this package was called.

    Args:
        message: what is the matter, and the remedy.
        category: ``RuntimeWarning`` for results that are not to be trusted, ``UserWarning`` for inputs that are
            probably not what was meant.
    """
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in _PASSED:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
