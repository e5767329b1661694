r"""How the number of decoders, and drawing them anew at each time point, change distances and their variation.

For the models of a study, with the first K of their decoders:

- ``geodesic_K``: geodesic distance under the expected metric of K decoders;
- ``draws_N``: expected length of that geodesic of all decoders when each of N + 1 time points is decoded by a member
  drawn anew, see :class:`IndependentDraws`;
- ``draws_N_chords``: what is left of it without the disagreement, :math:`\sqrt{N \sum \|\Delta\mu\|^2}`;
- ``draws_N_disagreement``: the disagreement alone, :math:`\sqrt{N \sum (v_i + v_{i+1})}`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
import torch
from torch import Tensor

from latentgeo.agreement.pairs import draw_pairs, tidy
from latentgeo.geometry.curve import resample
from latentgeo.geometry.decoder import Ensemble
from latentgeo.geometry.geodesic.solve import geodesic
from latentgeo.paper.models.vae import VAE
from latentgeo.paper.study import Study

_CHUNK = 10  # curves decoded at once


class IndependentDraws:
    r"""The energy of curves whose time points are each decoded by a member of the ensemble drawn anew.

    With the mean :math:`\mu = \tfrac1K \sum_k f_k` and the disagreement :math:`v(z) = \tfrac1K \sum_k \|f_k(z) -
    \mu(z)\|^2`, a chord between independent draws has the expectation

    .. math:: \mathbb{E}\, \|f_k(b) - f_l(a)\|^2 = \|\mu(b) - \mu(a)\|^2 + v(a) + v(b), \qquad k, l \text{ independent},

    in which :math:`v(a) + v(b)` does not become small with the chord. So the energy of N chords grows as N² and their
    length as N: this does not discretise any Riemannian metric, and its value means nothing without N. It is here
    to audit distances that were computed in this way, in closed form instead of by sampling.

    Source: the ensemble mode of the paper's released code, which draws a decoder for each time point.

    Args:
        decoders: at least two decoders (B, d) -> (B, *event), or an :class:`Ensemble`.

    Raises:
        ValueError: there are fewer than two decoders: nothing is drawn then.

    Example:
        >>> import torch
        >>> draws = IndependentDraws([lambda z: z + 1.0, lambda z: z - 1.0])
        >>> line = torch.linspace(0, 1, 5).reshape(1, 5, 1)
        >>> [term.round(decimals=4).tolist() for term in draws.terms(line)]  # chords of 1/4; v is 1 everywhere
        [[[0.0625, 0.0625, 0.0625, 0.0625]], [[2.0, 2.0, 2.0, 2.0]]]
    """

    def __init__(self, decoders: Ensemble | Sequence[Callable[[Tensor], Tensor]]) -> None:
        self.ensemble = decoders if isinstance(decoders, Ensemble) else Ensemble(decoders)
        if len(self.ensemble) < 2:
            raise ValueError(f"IndependentDraws expects at least two decoders, got {len(self.ensemble)}")

    def _decode(self, points: Tensor) -> Tensor:
        """Images of curves under every decoder: (P, N + 1, d) -> (P, N + 1, K, D)."""
        if points.ndim != 3 or points.shape[1] < 2:
            raise ValueError(f"points: expected curves of shape (P, N + 1, d) with N ≥ 1, got {tuple(points.shape)}")
        images = self.ensemble(points.flatten(0, 1)) * len(self.ensemble) ** 0.5
        return images.flatten(2).unflatten(0, points.shape[:2])

    def terms(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Both parts of the expected squared chords.

        Args:
            points: curves, shape (P, N + 1, d).

        Returns:
            Squared chords of the mean decoder and the disagreements v(a) + v(b), each of shape (P, N), in squared data
            units.
        """
        images = self._decode(points)
        mean = images.mean(2)
        disagreement = (images - mean.unsqueeze(2)).square().sum((2, 3)) / len(self.ensemble)
        return mean.diff(dim=1).square().sum(2), disagreement[:, 1:] + disagreement[:, :-1]

    def length(self, points: Tensor) -> Tensor:
        """Expected length Σ E‖f_k(b) - f_l(a)‖ of curves, the mean over all K² pairs of decoders.

        Args:
            points: curves, shape (P, N + 1, d).

        Returns:
            Shape (P,), in data units.
        """
        images = self._decode(points)
        return (
            torch.cdist(images[:, 1:], images[:, :-1], compute_mode="donot_use_mm_for_euclid_dist").mean((2, 3)).sum(1)
        )


def ensemble_distances(
    study: Study,
    *,
    sizes: Sequence[int] = (1, 2, 4, 8),
    points: Sequence[int] = (16, 64, 256, 1024),
    audited: int = 20,
    workers: int | None = None,
) -> pd.DataFrame:
    """Distances of the study's pairs by the methods of this module, under each of its models.

    Args:
        study: the models, trained where they are not yet; the tables are kept beside them.
        sizes: numbers of decoders K.
        points: numbers of segments N between the time points of independent draws.
        audited: number of pairs, the first ones, whose independent draws are measured.
        workers: processes, see :func:`latentgeo.paper.jobs.run_jobs`.

    Returns:
        One row for each model, pair and method: ``seed``, ``pair``, ``method``, ``value`` (data units), ``converged``.

    Raises:
        ValueError: a size is larger than the number of decoders, or too small.
        JobsFailedError: a model failed; the others are stored.
    """
    if not sizes or min(sizes) < 1 or max(sizes) > study.decoders:
        raise ValueError(
            f"sizes: expected between 1 and the {study.decoders} decoders of the models, got {list(sizes)}"
        )
    if study.decoders < 2 or not points or min(points) < 1:
        raise ValueError(f"expected models of two decoders or more, and N ≥ 1, got {study.decoders} and {list(points)}")
    if not 1 <= audited <= study.pairs:
        raise ValueError(f"audited: expected between 1 and the {study.pairs} pairs of the study, got {audited}")
    pairs = draw_pairs(len(study.data().test), study.pairs)
    geodesics = study.measure("ensembles", ensemble_geodesics, pairs, sizes=list(sizes), workers=workers)
    first = pairs[0][:audited], pairs[1][:audited]
    draws = study.measure("draws", independent_draws, first, points=list(points), workers=workers)
    return pd.concat([geodesics, draws]).sort_values("seed", kind="stable", ignore_index=True)


def ensemble_geodesics(model: VAE, start: Tensor, end: Tensor, sizes: Sequence[int]) -> pd.DataFrame:
    """Geodesic distances ``geodesic_K`` between images under the first K decoders, for each K of the sizes."""
    ends = model.encode(start), model.encode(end)
    found = {f"geodesic_{K}": geodesic(Ensemble(list(model.decoders)[:K]), *ends) for K in sizes}
    return tidy({method: (result.length, result.converged) for method, result in found.items()})


def independent_draws(model: VAE, start: Tensor, end: Tensor, points: Sequence[int]) -> pd.DataFrame:
    """``draws_N``, ``draws_N_chords`` and ``draws_N_disagreement`` between images, for each N of the points."""
    result = geodesic(model.decode, model.encode(start), model.encode(end))
    draws, columns = IndependentDraws(model.decode), {}
    for N in points:
        parts = [_draws(draws, resample(curves, N)) for curves in result.points.split(_CHUNK)]
        for part, values in zip(("", "_chords", "_disagreement"), zip(*parts, strict=True), strict=True):
            columns[f"draws_{N}{part}"] = (torch.cat(values), result.converged)
    return tidy(columns)


@torch.no_grad()
def _draws(draws: IndependentDraws, curves: torch.Tensor) -> tuple[torch.Tensor, ...]:
    chords, disagreement = draws.terms(curves)
    N = chords.shape[1]
    return draws.length(curves), (N * chords.sum(1)).sqrt(), (N * disagreement.sum(1)).sqrt()
