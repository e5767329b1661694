"""Progress bars, with an estimate of the time that is left, where somebody watches."""

from __future__ import annotations

import sys


def clickable() -> bool:
    """Whether somebody may click: a front-end asked that takes input, which batch runs of notebooks say they do not.

    A widget in their output would be an error message to whoever opens the file, or a page made of it.
    """
    if sys.modules.get("IPython") is None:
        return False
    kernel = getattr(sys.modules["IPython"].get_ipython(), "kernel", None)
    if kernel is None:
        return False
    asked = kernel.get_parent("shell") if hasattr(kernel, "get_parent") else {}
    return bool(asked.get("content", {}).get("allow_stdin", True))


def shown(progress: bool | None) -> bool:
    """Whether to show a progress bar: as asked for, or, by None, in a terminal and in a notebook that someone runs."""
    return bool(progress) if progress is not None else clickable() or bool(getattr(sys.stderr, "isatty", bool)())


def bar_options(progress: bool | None) -> dict[str, object]:
    """Options of ``tqdm`` for a bar that is shown at once where it is asked for, by None after two seconds."""
    return {"disable": not shown(progress), "delay": 0.0 if progress else 2.0}
