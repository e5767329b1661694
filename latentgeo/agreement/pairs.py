r"""Every distance of a pair under one trained model: its value, how far to trust it, and whether it is identified.

============================ ==============================================================  =========================
method                       value for a pair with latent codes a, b                         identified
============================ ==============================================================  =========================
``euclidean``                :math:`\|a - b\|` in latent space                               no
``geodesic``                 geodesic distance; of K decoders, under their expected metric   between identified points
``geodesic_one_decoder``     geodesic distance under decoder 0 of them alone                 between identified points
``straight_line``            pull-back length of the straight latent line                    no
``ambient_chord``            :math:`\|f(b) - f(a)\|`, K decoders as one                      between identified points
``data``                     :math:`\|x_a - x_b\|`, the same under every model               no model
============================ ==============================================================  =========================

Identified points are those that data have on the image whatever the latent coordinates, such as the nearest ones. The
images of posterior means are not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from latentgeo.adapters.model import as_images, latent_model
from latentgeo.geometry.curve import richardson, steps, straight_line
from latentgeo.geometry.decoder import Decoder, Ensemble, as_decoder, rows_at_once
from latentgeo.geometry.differentiation import full_precision
from latentgeo.geometry.geodesic.result import Geodesic
from latentgeo.geometry.geodesic.solve import Options, solve

METHOD_NAMES = {
    "euclidean": "Euclidean",
    "geodesic": "geodesic",
    "geodesic_one_decoder": "geodesic (one decoder)",
    "straight_line": "straight latent line",
    "ambient_chord": "chord in data space",
    "data": "distance of the data",
}
METHODS = tuple(METHOD_NAMES)
IDENTIFIED = ("geodesic", "geodesic_one_decoder", "ambient_chord")
PAIR_SEED = 101
_SUPPORT = 1000  # codes whose images stand for the data's support
_COMMON = 0.95  # share of the codes whose nearest neighbour is at most a unit of distance away


def draw_pairs(images: int, pairs: int, seed: int = PAIR_SEED) -> tuple[np.ndarray, np.ndarray]:
    """Indices of test pairs by the paper's rule: two draws without replacement, "from" and "to".

    Should an image be drawn against itself, the second draw is repeated; in the paper's setting (100 of 10,000
    images, seed 101) none is.

    Args:
        images: number of test images.
        pairs: number of pairs P.
        seed: of NumPy's legacy generator, which the paper used.

    Returns:
        Two integer arrays of shape (P,).

    Raises:
        ValueError: there are not enough images.

    Example:
        >>> a, b = draw_pairs(10_000, 100)
        >>> len(set(a)), bool((a == b).any())
        (100, False)
    """
    if not 1 <= pairs <= images or images < 2:
        raise ValueError(f"expected between 1 and {images} pairs for {images} test images, got {pairs}")
    random = np.random.RandomState(seed)
    start = random.choice(images, pairs, replace=False)
    end = random.choice(images, pairs, replace=False)
    while (start == end).any():
        end = random.choice(images, pairs, replace=False)
    return start, end


def tidy(columns: Mapping[str, Sequence[Tensor]]) -> pd.DataFrame:
    """One row for each method and pair.

    Args:
        columns: by method its values, whether they converged and, where it is known, their relative errors, each of
            shape (P,).

    Returns:
        ``pair``, ``method``, ``value``, ``converged`` and, where it is known, ``error``.
    """
    names = ("value", "converged", "error")
    parts = []
    for method, of in columns.items():
        arrays = {name: column.detach().cpu().numpy() for name, column in zip(names, of, strict=False)}
        parts.append(pd.DataFrame({"pair": np.arange(len(of[0])), "method": method} | arrays))
    table = pd.concat(parts, ignore_index=True)
    return table.astype({name: float for name in ("value", "error") if name in table})


@full_precision()
def measure_pairs(
    f: Decoder,
    start: Tensor,
    end: Tensor,
    *,
    ends: tuple[Tensor, Tensor] | None = None,
    one_decoder: Decoder | None = None,
    line_segments: int = 64,
    **options: Unpack[Options],
) -> tuple[pd.DataFrame, Geodesic]:
    r"""Every distance of pairs of latent points under a decoder.

    The length of a straight line is extrapolated from M / 2 and M chords, with the relative error
    :math:`|L_M - L_{M/2}| / 3 L_M`. What did not converge is not warned of: the table has it.

    Args:
        f: a decoder that :func:`latentgeo.geometry.decoder.as_decoder` has made.
        start: latent points a, shape (P, d).
        end: latent points b, shape (P, d).
        ends: the data of both ends, shape (P, \*event) each, where they are to be compared too.
        one_decoder: one of the decoders that f consists of, where its own geodesics are wanted too; they are not solved
            again where it is f itself.
        line_segments: M of the straight lines, even.
        **options: of the geodesics, see :func:`latentgeo.geodesic`.

    Returns:
        One row for each method and pair, in the order of :data:`METHODS`: ``pair``, ``method``, ``value`` (data units,
        latent units for ``euclidean``), ``converged`` (the solver, or that the value is finite) and ``error``
        (estimated relative error of the value; 0 where it is exact). And the geodesics with their certificates.

    Raises:
        TypeError, ValueError: see :func:`latentgeo.geodesic`.

    Example:
        On the unit circle between the angles 0 and 2:

        >>> circle = lambda z: torch.cat([z.cos(), z.sin()], -1)
        >>> a, b = torch.zeros(1, 1).double(), torch.full((1, 1), 2.0).double()
        >>> table, found = measure_pairs(as_decoder(circle, a), a, b)
        >>> table.set_index("method")["value"].round(4).to_dict()
        {'euclidean': 2.0, 'geodesic': 2.0, 'straight_line': 2.0, 'ambient_chord': 1.6829}
    """
    solved = {}
    for method, decoder in {"geodesic": f, "geodesic_one_decoder": one_decoder}.items():
        if decoder is not None:
            again = method != "geodesic" and decoder is f
            solved[method] = solved["geodesic"] if again else solve(decoder, start, end, options)
    parts = []
    with torch.no_grad():
        size = max(1, rows_at_once(f, start) // (line_segments + 1))
        for a, b in zip(start.split(size), end.split(size), strict=True):
            coarse, fine = (steps(f, straight_line(a, b, M)).sum(1) for M in (line_segments // 2, line_segments))
            parts.append(torch.stack([coarse, fine, f.chord(f(a), f(b))]))
        coarse, fine, chord = torch.cat(parts, 1)
        values = {"euclidean": (start - end).norm(dim=1), "straight_line": richardson(coarse, fine)}
        values |= {"ambient_chord": chord} | (
            {} if ends is None else {"data": (ends[0] - ends[1]).flatten(1).norm(dim=1)}
        )
    columns = {method: (value, value.isfinite(), torch.zeros_like(value)) for method, value in values.items()}
    error = (fine - coarse).abs() / (3.0 * fine).clamp_min(torch.finfo(fine.dtype).tiny)
    columns["straight_line"] = (*columns["straight_line"][:2], error)
    columns |= {method: (found.length, found.converged, found.error) for method, found in solved.items()}
    return tidy({method: columns[method] for method in METHODS if method in columns}), solved["geodesic"]


@full_precision()
def farthest_from_codes(f: Decoder, z: Tensor, ends: np.ndarray, points: Tensor, seed: int) -> np.ndarray:
    """How far each curve's inner points get from the codes' images, in units of neighbouring codes' distance.

    Args:
        f: the decoder.
        z: codes, shape (n, d).
        ends: rows that are ends of curves, which count among the landmarks in any case.
        points: curves, shape (P, N + 1, d).
        seed: of the draw of further landmarks.

    Returns:
        Shape (P,); infinite where the decoder is not finite along the curve.
    """
    others = np.setdiff1d(np.arange(len(z)), ends)
    random = np.random.default_rng(seed)
    chosen = np.concatenate([ends, random.permutation(others)[: max(0, _SUPPORT - len(ends))]])
    with torch.no_grad():
        size = rows_at_once(f, z)
        landmarks = torch.cat([f(part) for part in z[chosen[: max(3, size, len(ends))]].split(size)])
        apart = f.chords(landmarks, landmarks).fill_diagonal_(torch.inf).amin(1)
        unit = apart.double().nan_to_num(torch.inf, torch.inf).quantile(_COMMON).clamp_min(torch.finfo(z.dtype).tiny)
        inner = points[:, 1:-1].flatten(0, 1)
        nearest = torch.cat([f.chords(f(part), landmarks).amin(1) for part in inner.split(size)])
        farthest = nearest.double().nan_to_num(torch.inf, torch.inf).unflatten(0, (len(points), -1)).amax(1)
    return (farthest / unit).nan_to_num(torch.inf, torch.inf).cpu().numpy()


def pair_distances(
    model: object,
    start: Tensor,
    end: Tensor,
    *,
    points: str = "nearest",
    segments: int = 16,
    line_segments: int = 64,
) -> pd.DataFrame:
    """Distances between pairs of data by every method of this module, under a model with an ensemble of decoders.

    Args:
        model: the trained model, in evaluation mode, whose ``decode`` is an :class:`latentgeo.Ensemble`.
        start: data, shape (P, *event).
        end: data, shape (P, *event).
        points: what stands for the data, see :meth:`latentgeo.LatentModel.points`; the methods called identified are
            so between points that are, ``"nearest"`` or ``"posterior"``.
        segments: N of the geodesics.
        line_segments: M of the straight lines, even.

    Returns:
        The table of :func:`measure_pairs`, with the column ``points``; ``converged`` says that the points at both ends
        were found, too, and ``unique`` that a second search found the same ones.
    """
    data = as_images(start), as_images(end)
    seen = latent_model(model)
    codes, converged, unique, _ = seen.points(torch.cat(data), points)
    a, b = codes.chunk(2)
    converged, unique = ((x & y).cpu().numpy() for x, y in (of.chunk(2) for of in (converged, unique)))
    f = as_decoder(seen.decoder, a)
    alone = isinstance(seen.decoder, Ensemble) and len(seen.decoder) == 1
    one = f if alone else as_decoder(seen.decoder[0], a)
    options = {"segments": segments, "line_segments": line_segments}
    table = measure_pairs(f, a, b, ends=data, one_decoder=one, **options)[0]
    table["converged"] &= converged[table["pair"]]
    return table.assign(unique=unique[table["pair"]], points=points)
