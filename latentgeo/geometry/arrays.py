"""Numbers as people keep them, in and out: one conversion for everything that takes points or data."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from latentgeo.geometry.differentiation import full_precision
from latentgeo.geometry.reach import parameter_in

F = TypeVar("F", bound=Callable)


def is_array(values: object) -> bool:
    """Whether these are numbers that :func:`to_tensor` takes, other than a tensor, rather than some other object."""
    if isinstance(values, list):
        return len(values) > 0 and all(isinstance(v, int | float | np.generic | tuple) or is_array(v) for v in values)
    kept = isinstance(values, np.ndarray) or scipy.sparse.issparse(values)
    return kept or hasattr(values, "to_numpy") or _lazy(values)


def _lazy(values: object) -> bool:
    return hasattr(values, "compute") and (hasattr(values, "dtype") or hasattr(values, "dtypes"))


def unhidden(name: str, values: object) -> object:
    """The same, refused where it is a masked array that hides values."""
    if not isinstance(values, np.ma.MaskedArray):
        return values
    hidden = int(np.ma.getmaskarray(values).sum())
    if hidden:
        raise ValueError(
            f"{name}: expected numbers throughout, got a masked array that hides {hidden} of {values.size}; drop those "
            "rows first, x[~np.ma.getmaskarray(x).any(1)].data"
        )
    return values.data


def _plain(name: str, values: object) -> np.ndarray:
    """Values as an array of numbers of this machine's byte order, none of them missing."""
    if hasattr(values, "compute"):
        values = values.compute()
    if scipy.sparse.issparse(values):
        values = values.toarray()
    elif hasattr(values, "to_numpy"):
        frame = values
        values = frame.to_numpy()
        if values.dtype.kind == "O":  # columns of nullable types, or of several
            try:
                values = frame.to_numpy(dtype=np.float64, na_value=np.nan)
            except (TypeError, ValueError) as error:
                raise TypeError(
                    f"{name}: expected a table of numbers, got a column that is none ({error}); choose the columns of "
                    "numbers first"
                ) from error
    elif hasattr(values, "todense"):
        values = values.todense()
    try:
        values = np.asarray(unhidden(name, values))
    except ValueError as error:
        raise ValueError(f"{name}: expected rows of the same length, got {type(values).__name__}: {error}") from error
    if values.dtype.kind == "O":
        try:
            values = values.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name}: expected an array of numbers, got objects: {error}") from error
    if values.dtype.kind not in "fiub":
        raise TypeError(f"{name}: expected an array of real numbers, got dtype {values.dtype}")
    return values


def to_tensor(name: str, values: object, dtype: torch.dtype | None = None) -> Tensor:
    """Numbers as a tensor of its own, whatever they are kept in: nothing of the caller's is written to.

    Args:
        name: what the caller calls the argument.
        values: a tensor, which is taken as it is unless it was made in inference mode; a NumPy array of any byte order
            and stride, a pandas or Dask table or array, a SciPy sparse matrix, or nested lists of numbers.
        dtype: of the result, if values are no tensor; that of floating-point values, or whole numbers, by default.

    Raises:
        TypeError: these are no numbers.
        ValueError: rows differ in length, or a masked array hides some values.

    Example:
        >>> to_tensor("z", np.array([[1.0, 2.0]], ">f8")[:, ::-1])
        tensor([[2., 1.]], dtype=torch.float64)
    """
    if isinstance(values, Tensor):
        values = values.to_dense() if values.layout != torch.strided else values
        if not values.is_inference():
            return values
        with torch.inference_mode(False):
            return values.clone()
    if isinstance(values, list | tuple) and values and all(isinstance(row, Tensor) for row in values):
        x = torch.stack(list(values))
        return to_tensor(name, x if dtype is None else x.to(dtype))
    array = _plain(name, values)
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    x = torch.from_numpy(np.array(array, array.dtype.newbyteorder("="), order="C"))
    return x if dtype is None else x.to(dtype)


def _points_of(name: str, values: object, like: Tensor | None) -> Tensor:
    x = to_tensor(name, values, None if like is None else like.dtype)
    if like is not None and not isinstance(values, Tensor):
        x = x.to(like.device)
    return x if isinstance(values, Tensor) or x.is_floating_point() else x.to(torch.get_default_dtype())


def arrays_of(found: object) -> object:
    """The same with NumPy arrays in place of tensors, also in tuples and results."""
    if isinstance(found, Tensor):
        return found.detach().cpu().numpy()
    if isinstance(found, tuple):
        parts = [arrays_of(part) for part in found]
        return type(found)(*parts) if hasattr(found, "_fields") else tuple(parts)
    if dataclasses.is_dataclass(found):
        fields = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
        held = {name: arrays_of(value) for name, value in fields.items() if isinstance(value, Tensor)}
        return dataclasses.replace(found, **held)
    return found


def _several(value: object) -> bool:
    """Whether these are several curves to start from, arrays among them."""
    return isinstance(value, list | tuple) and any(isinstance(v, np.ndarray) and v.ndim == 3 for v in value)


def _converted(name: str, value: object, like: Tensor | None) -> object:
    if name == "initial" and _several(value):
        return [None if curves is None else _points_of(name, curves, like) for curves in value]
    return _points_of(name, value, like) if isinstance(value, Tensor) or is_array(value) else value


def takes_arrays(*names: str, back: bool = True) -> Callable[[F], F]:
    """Let a function of tensors take arrays as well, and then return arrays: NumPy in, NumPy out.

    Arrays become tensors of the type, and on the device, of the decoder's parameters, where it has any, and else keep
    their type. Tensors pass as they are; those that were made in inference mode are copied, and nothing is computed
    within it. Single precision is computed as such, see :func:`latentgeo.geometry.differentiation.full_precision`.

    Args:
        *names: of the arguments that may be arrays.
        back: whether what is returned becomes arrays.
    """

    def decorate(function: F) -> F:
        parameters = list(inspect.signature(function).parameters)

        @functools.wraps(function)
        def call(*args: object, **kwargs: object) -> object:
            given = dict(zip(parameters, args, strict=False)) | kwargs
            points = {name: given[name] for name in names if given.get(name) is not None}
            arrays = any(is_array(value) or _several(value) for value in points.values())
            inference = torch.is_inference_mode_enabled() or any(
                isinstance(value, Tensor) and (value.is_inference() or value.layout != torch.strided)
                for value in points.values()
            )
            if len(args) > len(parameters) or not (arrays or inference):
                with full_precision():
                    return function(*args, **kwargs)
            tensors = [value for value in points.values() if isinstance(value, Tensor)]
            like = tensors[0] if tensors else parameter_in(given.get("decoder"))
            given |= {name: _converted(name, value, like) for name, value in points.items()}
            if not torch.is_inference_mode_enabled():
                with full_precision():
                    found = function(**given)
            else:
                with full_precision(), torch.inference_mode(False), torch.no_grad():
                    found = function(**given)
            return arrays_of(found) if back and not tensors else found

        return call

    return decorate
