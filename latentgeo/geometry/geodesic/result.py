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
        length: lengths, extrapolated to infinitely many segments, shape (P,), in data units.
        energy: energies over unit time, extrapolated likewise, shape (P,), in squared data units.
        excess: estimated relative energy that more iterations would still gain, shape (P,).
        error: estimated relative error of the length, discretisation and optimisation together, shape (P,).
        order: observed order p at which chord lengths converge, as :math:`N^{-p}`, between 0.4 and 2, shape (P,): 2
            where the decoder is smooth along the curve, about 1 where it has kinks (ReLU) or the segments are too few.
            The extrapolation is made for smooth decoders; ``error`` allows for the order that was observed.
        converged: shape (P,); the excess fell to the tolerance and the segments resolve the curve.
        iterations: accepted steps over all levels of refinement, shape (P,).
        tol: relative energy excess that was asked for.
        decoder_rows: latent points that went through the decoder in all.
        gradient: of the lengths by both ends, shape (P, 2, d), in data units per latent unit, where it was asked for.
    """

    points: Tensor
    length: Tensor
    energy: Tensor
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
            error = self.error.median().item()
            words.append(f"{int(self.converged.sum())} converged")
            words.append(f"median error {100 * error:.2g} %" if error < 0.99 else "median error 99 % or more")
        return f"Geodesic({', '.join(words)})"

    @classmethod
    def empty(cls, start: Tensor, segments: int, tol: float) -> Geodesic:
        """The result for no pairs."""
        P, d = start.shape
        none, counts = start.new_zeros(P), torch.zeros(P, dtype=torch.long, device=start.device)
        points, gradient = start.new_zeros(P, segments + 1, d), start.new_zeros(P, 2, d)
        return cls(points, none, none, none, none, none, counts > 0, counts, tol, 0, gradient)

    @staticmethod
    def joined(parts: list[Geodesic]) -> Geodesic:
        """The pairs of several results, one after the other; of at least one."""
        first = {name: value for name, value in vars(parts[0]).items() if isinstance(value, Tensor)}
        return dataclasses.replace(parts[0], **{name: torch.cat([getattr(p, name) for p in parts]) for name in first})
