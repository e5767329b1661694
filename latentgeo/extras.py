"""Packages that not everyone needs, and the extras that bring them."""

from importlib.util import find_spec


def require(purpose: str, extra: str, *packages: str) -> None:
    """Refuse to go on without packages.

    Args:
        purpose: what needs them.
        extra: of the package, which brings them.
        *packages: as they are imported.

    Raises:
        ImportError: one of them is not installed.

    Example:
        >>> require("a picture", "explorer", "torch", "nowhere")
        Traceback (most recent call last):
        ImportError: a picture needs nowhere, which is not installed: pip install 'latentgeo[explorer]'
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        lacking = f"{' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed"
        raise ImportError(f"{purpose} needs {lacking}: pip install 'latentgeo[{extra}]'")
