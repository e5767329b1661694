"""Rows of other libraries' arrays, dense or sparse, as the tensors that a model takes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from latentgeo.adapters.model import LatentModel, is_anndata, latent_model, parameter_of
from latentgeo.geometry.arrays import to_tensor
from latentgeo.warn import warn

_CHUNK = 2048  # rows that are made dense and encoded at a time


def _identity(x: Tensor) -> Tensor:
    return x


def model_or_decoder(model: object) -> LatentModel:
    """See a model, or a decoder alone, from its latent space.

    Args:
        model: what :func:`latentgeo.latent_model` takes; a callable (B, d) -> (B, *event) without an encoder, whose
            data are latent points already; or None for the identity, whose geometry is Euclidean.

    Raises:
        TypeError: it is none of these.

    Example:
        >>> model_or_decoder(lambda z: 2.0 * z).codes(torch.ones(1, 2))
        tensor([[1., 1.]])
    """
    if model is None:
        return LatentModel(_identity, _identity, "identity")
    try:
        return latent_model(model)
    except TypeError:
        if not callable(model):
            raise
    return LatentModel(_identity, model, getattr(model, "__name__", type(model).__name__))


def tensor_of(rows: object, model: LatentModel, dtype: torch.dtype | None = None) -> Tensor:
    """Rows of an array as a tensor of the type, and on the device, of the model's parameters.

    Args:
        rows: what :func:`latentgeo.geometry.arrays.to_tensor` takes, shape (n, D).
        model: asked for its parameters.
        dtype: another type; where it is None and the model has no parameters to ask, that of the rows, and PyTorch's
            default one for integers.
    """
    x = to_tensor("data", rows)
    parameter = parameter_of(model)
    if parameter is not None:
        return x.to(parameter.device, dtype or parameter.dtype)
    return x.to(dtype or (x.dtype if x.dtype in (torch.float32, torch.float64) else torch.get_default_dtype()))


def codes_of(
    rows: object,
    model: LatentModel,
    points: str = "mean",
    *,
    others: Tensor | None = None,
    dtype: torch.dtype | None = None,
    event_shape: Sequence[int] | None = None,
) -> Tensor:
    r"""Latent points (n, d) that stand for data rows (n, D), chunk by chunk.

    Args:
        rows: NumPy array, SciPy sparse matrix or what can be sliced like one, shape (n, D); or an AnnData, whole, for
            encoders that take it.
        model: its encoder is given (B, D), or (B, \*event).
        points: which ones, see :meth:`LatentModel.points`; those that are not found, or have others as near, are warned
            of. Rows that are latent points already are taken as they are.
        others: codes of other data, see :func:`latentgeo.project`.
        dtype: as for :func:`tensor_of`.
        event_shape: of a row, where the encoder wants more than one axis.

    Raises:
        TypeError, ValueError: see :meth:`LatentModel.codes`; or the event's shape does not fit the rows.
    """
    n, D = rows.shape
    if event_shape is not None and math.prod(event_shape) != D:
        raise ValueError(f"event_shape: expected {D} values, as many as a row has, got {tuple(event_shape)}")
    points = "mean" if model.encode is _identity else points
    parts = []
    for first in range(0, n, _CHUNK):
        part = rows[first : first + _CHUNK]
        x = part if is_anndata(part) else tensor_of(part, model, dtype)
        parts.append(model.points(x if event_shape is None else x.reshape(len(x), *event_shape), points, others))
    codes, converged, _, apart = (torch.cat(of) for of in zip(*parts, strict=True))
    if apart.any() or not converged.all():
        warn(
            f"of {n} data {int((apart > 0).sum())} have other points of the image about as near, so that distances "
            f"from these are those of one of several points, and for {int((~converged).sum())} the search did not "
            "converge; points='mean' takes the encoder's codes, which are not identified",
        )
    return codes.detach()
