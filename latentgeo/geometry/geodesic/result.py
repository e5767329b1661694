"""What the solver found: curves, lengths, and how far to trust them."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Geodesic:
    """Geodesics between P pairs of latent points, and how far to trust them.

    Attributes:
        points: the curves at equidistant times, shape (P, N + 1, d).
        length: lengths of the splines through these points, by 64 chords or more, extrapolated, shape (P,), in data
            units.
        lower: chords of the ends, below which no distance is, shape (P,), in data units.
        upper: the lengths with the error of their quadrature, above which no distance is, shape (P,), in data units.
        excess: estimated relative energy that more iterations would still gain, shape (P,).
        error: estimated relative error of the length, discretisation and optimisation together, shape (P,).
        order: observed order p at which sums of chords converge, as :math:`N^{-p}`, between 0.4 and 2, shape (P,): 2
            where the decoder is smooth along the curve, about 1 where it has kinks (ReLU) or the segments are too few.
        converged: shape (P,); the excess fell to the tolerance and the segments resolve the curve.
        iterations: accepted steps over all levels of refinement, shape (P,).
        tol: relative energy excess that was asked for.
        decoder_rows: latent points that went through the decoder in all.
        gradient: of the lengths by both ends, shape (P, 2, d), in data units per latent unit, where it was asked for.
    """

    points: Tensor
    length: Tensor
    lower: Tensor
    upper: Tensor
    excess: Tensor
    error: Tensor
    order: Tensor
    converged: Tensor
    iterations: Tensor
    tol: float
    decoder_rows: int
    gradient: Tensor | None = None

    def __len__(self) -> int:
        """Return the number of pairs P."""
        return len(self.length)

    def __repr__(self) -> str:
        """Say how many pairs, of which sizes, and how far to trust them, not the curves."""
        P, nodes, d = self.points.shape
        words = [f"{P} pair{'' if P == 1 else 's'}", f"d = {d}", f"N = {nodes - 1}"]
        if P:
            error = torch.as_tensor(self.error).median().item()
            words.append(f"{int(self.converged.sum())} converged")
            words.append(f"median error {100 * error:.2g} %" if error < 0.99 else "median error 99 % or more")
        return f"Geodesic({', '.join(words)})"

    @classmethod
    def empty(cls, start: Tensor, segments: int, tol: float) -> Geodesic:
        """The result for no pairs."""
        P, d = start.shape
        none, counts = start.new_zeros(P), torch.zeros(P, dtype=torch.long, device=start.device)
        points, gradient = start.new_zeros(P, segments + 1, d), start.new_zeros(P, 2, d)
        return cls(points, none, none, none, none, none, none, counts > 0, counts, tol, 0, gradient)

    @staticmethod
    def joined(parts: list[Geodesic]) -> Geodesic:
        """The pairs of several results, one after the other; of at least one."""
        first = {name: value for name, value in vars(parts[0]).items() if isinstance(value, Tensor)}
        return dataclasses.replace(parts[0], **{name: torch.cat([getattr(p, name) for p in parts]) for name in first})


def unsolved(points: Tensor, tol: float) -> Geodesic:
    """Curves (P, N + 1, d) of which nothing is known: anything that is known of others is better."""
    P = len(points)
    unknown, infinite = points.new_full((P,), torch.nan), points.new_full((P,), torch.inf)
    none = torch.zeros(P, dtype=torch.long, device=points.device)
    order = torch.full_like(unknown, 2.0)
    return Geodesic(points, unknown, unknown, unknown, infinite, infinite, order, none > 0, none, tol, 0)


def scaled(found: Geodesic, unit: float) -> Geodesic:
    """The same with lengths that were measured in some unit, in data units."""
    if unit == 1.0:
        return found
    in_units = {name: unit * getattr(found, name) for name in ("length", "lower", "upper")}
    gradient = None if found.gradient is None else unit * found.gradient
    return dataclasses.replace(found, **in_units, gradient=gradient)


def improved(found: Geodesic, rows: Tensor, others: Geodesic) -> Geodesic:
    """The same with other results for some pairs where they are better: converged, or else of a lesser bound.

    Args:
        found: results.
        rows: numbers of the pairs, shape (A,).
        others: results for these.
    """
    mine, theirs = (torch.where(part.upper.isnan(), torch.inf, part.upper) for part in (found, others))
    shorter = theirs < mine[rows]
    better = torch.where(found.converged[rows] == others.converged, shorter, others.converged)
    chosen = {}
    for name, value in vars(found).items():
        if isinstance(value, Tensor):
            chosen[name] = value.clone()
            chosen[name][rows[better]] = getattr(others, name)[better]
    chosen["iterations"] = found.iterations.index_add(0, rows, others.iterations)
    return dataclasses.replace(found, **chosen)
