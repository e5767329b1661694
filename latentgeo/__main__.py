"""The command line, also where the laboratory that it works for is not installed."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import latentgeo


def main(arguments: Sequence[str] | None = None) -> int:
    """Run :func:`latentgeo.paper.cli.main`, or say what it lacks.

    Args:
        arguments: command-line arguments; those of the process by default.

    Returns:
        Exit status.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        from latentgeo.paper import cli
    except ImportError as error:
        if "--version" in arguments:
            print(f"latentgeo {latentgeo.__version__}")
            return 0
        print(f"latentgeo: {error}", file=sys.stderr)
        return 2
    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
