"""Geodesic distances as a scikit-learn transformer, for everything that takes ``metric="precomputed"``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from latentgeo.adapters.arrays import codes_of, model_or_decoder, tensor_of
from latentgeo.geometry.arrays import arrays_of, unhidden
from latentgeo.geometry.geodesic.neighbours import measure
from latentgeo.warn import warn

_UNCONVERGED = ("warn", "raise")


class GeodesicDistance(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    r"""Geodesic distances to reference rows, a matrix for estimators with ``metric="precomputed"``.

    .. math:: X \mapsto \big( d(z_i, z_j^{\mathrm{fit}}) \big)_{ij}, \qquad z = \mathrm{encode}(x)

    In a pipeline before nearest neighbours, DBSCAN, agglomerative clustering, MDS, Isomap or t-SNE it puts distances
    that are identified in the place of Euclidean ones. ``fit`` keeps the reference rows, ``transform`` solves one
    geodesic for each new row and reference row, and ``fit_transform`` one for each pair of rows: its matrix is exactly
    symmetric with a zero diagonal. For neighbours of very many points see
    :func:`latentgeo.geometry.geodesic.neighbours.nearest_neighbours`, which solves for few pairs.

    Arrays come in and go out as NumPy's. The computation is in the type of the model's parameters, usually float32, or
    for a function without parameters in that of X; the matrix has the type of X, float64 for integers.

    Args:
        model: what :func:`latentgeo.latent_model` takes, whose encoder is given the rows of X; or a decoder
            (B, d) -> (B, \*event) alone, when the rows are latent points already; or None for the identity decoder,
            whose distances are Euclidean. It is never changed. To be pickled, or used in parallel, it has to be a
            module or a named function, not a lambda.
        points: what stands for the rows that are encoded, see :meth:`latentgeo.LatentModel.points`; distances are
            identified between ``"nearest"`` or ``"posterior"`` points, not between ``"mean"`` ones.
        event_shape: of a row of X, where the encoder wants more than one axis, such as (channels, height, width).
        segments: N, as for :func:`latentgeo.geodesic`.
        tol: as for :func:`latentgeo.geodesic`.
        max_iter: as for :func:`latentgeo.geodesic`.
        chunk_size: as for :func:`latentgeo.geodesic`.
        along_data: whether each pair is also solved from the shortest path through the images of the reference rows, at
            twice the time, see :mod:`latentgeo.geometry.geodesic.starts`.
        unconverged: what becomes of a geodesic that did not converge: ``"warn"`` takes the length of the curve that
            was found, an estimate that is usually too long, and counts such pairs in a warning; ``"raise"`` is an
            error. A length that is not finite is an error in any case.

    Attributes:
        codes\_: latent points of the reference rows, shape (n_fit, d).
        n_features_in\_: number of columns of X.
        feature_names_in\_: names of the columns of X, if it had any.

    Raises:
        TypeError, ValueError: from ``fit`` and ``transform``, if the model or X does not fit, or a distance is not
            found.

    Example:
        On the unit circle, with the angle for a latent coordinate:

        >>> circle = lambda z: torch.cat([z.cos(), z.sin()], -1)
        >>> GeodesicDistance(circle).fit([[0.0], [3.0]]).transform([[1.0]]).round(4)
        array([[1., 2.]])
        >>> from sklearn.neighbors import KNeighborsClassifier
        >>> from sklearn.pipeline import make_pipeline
        >>> nearest = make_pipeline(GeodesicDistance(circle), KNeighborsClassifier(1, metric="precomputed"))
        >>> nearest.fit([[0.0], [3.0]], ["east", "west"]).predict([[2.0]]).item()
        'west'
    """

    def __init__(
        self,
        model: object = None,
        *,
        points: str = "nearest",
        event_shape: Sequence[int] | None = None,
        segments: int = 16,
        tol: float = 1e-4,
        max_iter: int = 200,
        chunk_size: int | None = None,
        along_data: bool = False,
        unconverged: str = "warn",
    ) -> None:
        self.model = model
        self.points = points
        self.event_shape = event_shape
        self.segments = segments
        self.tol = tol
        self.max_iter = max_iter
        self.chunk_size = chunk_size
        self.along_data = along_data
        self.unconverged = unconverged

    def fit(self, X: np.ndarray, y: object = None) -> GeodesicDistance:
        """Encode and keep the reference rows.

        Args:
            X: data, or latent points for a decoder alone, shape (n_fit, features).
            y: ignored.
        """
        self._fit(X)
        return self

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Geodesic distances to the reference rows, (n, features) -> (n, n_fit), in data units."""
        return self.transform_with_error(X)[0]

    def fit_transform(self, X: np.ndarray, y: object = None) -> np.ndarray:
        """Fit, and return the symmetric matrix of distances between the rows of X, each pair solved once."""
        z, dtype = self._fit(X)
        i, j = torch.triu_indices(len(z), len(z), offset=1, device=z.device)
        lengths, _ = self._solve(z[i], z[j])
        matrix = np.zeros((len(z), len(z)), dtype)
        i, j = i.cpu().numpy(), j.cpu().numpy()
        matrix[i, j] = matrix[j, i] = lengths
        return matrix

    def transform_with_error(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances as from :meth:`transform`, and their certificates.

        Args:
            X: as for :meth:`fit`, shape (n, features).

        Returns:
            Distances, and their estimated relative errors, infinite where a geodesic did not converge: (n, n_fit) each.
        """
        check_is_fitted(self)
        z, dtype = self._encode(X, reset=False)
        reference = tensor_of(self.codes_, model_or_decoder(self.model), z.dtype)
        found = self._solve(z.repeat_interleave(len(reference), 0), reference.repeat(len(z), 1))
        return tuple(values.reshape(len(z), len(reference)).astype(dtype) for values in found)

    def __sklearn_tags__(self) -> object:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def _n_features_out(self) -> int:
        return len(self.codes_)

    def _fit(self, X: np.ndarray) -> tuple[Tensor, np.dtype]:
        if self.unconverged not in _UNCONVERGED:
            raise ValueError(f"unconverged: expected one of {', '.join(_UNCONVERGED)}, got {self.unconverged!r}")
        z, dtype = self._encode(X, reset=True)
        self.codes_ = z.cpu().numpy()
        return z, dtype

    def _encode(self, X: np.ndarray, reset: bool) -> tuple[Tensor, np.dtype]:
        """Latent points of rows, and the type of the latter."""
        X = arrays_of(unhidden("X", X))
        X = validate_data(self, X, reset=reset, dtype=[np.float64, np.float32], accept_sparse="csr")
        model = model_or_decoder(self.model)
        others = None if reset else tensor_of(self.codes_, model)
        return codes_of(X, model, self.points, others=others, event_shape=self.event_shape), X.dtype

    def _solve(self, start: Tensor, end: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Lengths and errors, (P,) each."""
        length, _, error, converged = measure(
            model_or_decoder(self.model).decoder,
            start,
            end,
            segments=self.segments,
            tol=self.tol,
            max_iter=self.max_iter,
            chunk_size=self.chunk_size,
            data=tensor_of(self.codes_, model_or_decoder(self.model), start.dtype) if self.along_data else None,
        )
        unknown, failed = int((~length.isfinite()).sum()), int((~converged).sum())
        message = f"{failed} of {len(length)} geodesics did not converge; raise segments or max_iter"
        if unknown:
            raise ValueError(f"{message}. {unknown} have no finite length: is the decoder finite between the points?")
        if failed and self.unconverged == "raise":
            raise ValueError(f"{message}, or take what was found by unconverged='warn'")
        if failed:
            warn(f"{message}. transform_with_error says which")
        return length.cpu().numpy(), error.where(converged, torch.inf).cpu().numpy()
