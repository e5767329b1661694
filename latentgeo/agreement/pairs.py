r"""Distances between test images under one trained model, by every method that is compared.

============================ ==============================================================  ==========
method                       value for a pair with posterior means a, b                      identified
============================ ==============================================================  ==========
``euclidean``                :math:`\|a - b\|` in latent space                               no
``geodesic``                 geodesic distance, expected metric over the K decoders          yes
``geodesic_one_decoder``     geodesic distance under decoder 0 alone                         yes
``straight_line``            pull-back length of the straight latent line, expected metric   no
``ambient_chord``            :math:`\|F(b) - F(a)\|` with the ensemble as one decoder        yes
``data``                     :math:`\|x_a - x_b\|`, the same under every model               no model
============================ ==============================================================  ==========
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from latentgeo.adapters.arrays import as_images
from latentgeo.geometry.curve import chord_length, richardson, straight_line
from latentgeo.geometry.geodesic.solve import geodesic

METHODS = ("euclidean", "geodesic", "geodesic_one_decoder", "straight_line", "ambient_chord", "data")
PAIR_SEED = 101
_LINE_SEGMENTS = 64


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


def pair_distances(
    model: object,
    start: Tensor,
    end: Tensor,
    *,
    segments: int = 16,
    tol: float = 1e-4,
    line_segments: int = _LINE_SEGMENTS,
) -> pd.DataFrame:
    """Distances between pairs of images by every method of this module.

    Args:
        model: the trained model, in evaluation mode.
        start: images, shape (P, *event).
        end: images, shape (P, *event).
        segments: N of the geodesics.
        tol: tolerance of the geodesics.
        line_segments: N of the straight lines, even.

    Returns:
        One row for each pair and method: ``pair``, ``method``, ``value`` (data units, latent units for
        ``euclidean``), ``converged`` and ``error`` (estimated relative error of the value; 0 where it is exact).
    """
    start, end = as_images(start), as_images(end)
    a, b = model.encode(start), model.encode(end)
    ensemble = model.decode
    with torch.no_grad():
        coarse, fine = (chord_length(ensemble, straight_line(a, b, N)) for N in (line_segments // 2, line_segments))
        exact = {
            "euclidean": (a - b).norm(dim=1),
            "straight_line": richardson(coarse, fine),
            "ambient_chord": (ensemble(a) - ensemble(b)).flatten(1).norm(dim=1),
            "data": (start - end).flatten(1).norm(dim=1),
        }
    columns = {
        method: (value, torch.ones(len(a), dtype=torch.bool), torch.zeros(len(a))) for method, value in exact.items()
    }
    columns["straight_line"] = (exact["straight_line"], columns["data"][1], (fine - coarse).abs() / (3.0 * fine))
    for method, decoder in (("geodesic", ensemble), ("geodesic_one_decoder", ensemble[0])):
        result = geodesic(decoder, a, b, segments=segments, tol=tol)
        columns[method] = (result.length, result.converged, result.error)
    tables = []
    for method in METHODS:
        value, converged, error = (column.cpu().numpy() for column in columns[method])
        tables.append(
            pd.DataFrame(
                {
                    "pair": np.arange(len(value)),
                    "method": method,
                    "value": value.astype(float),
                    "converged": converged,
                    "error": error.astype(float),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)
