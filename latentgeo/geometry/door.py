"""What a callable is looked at for, once, before it is taken for a decoder: a few rows, and what is wrong with it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from latentgeo.geometry.differentiation import WAYS, along, disagree, second_along

if TYPE_CHECKING:
    from latentgeo.geometry.decoder import Decoder

_APART = 2.0**-6  # relative distance of a second point, where only one is given
_SAME = 8.0  # times the root of the rounding, by which a row may change with the batch that it is decoded in
_FEW = 64  # points that one is compared with
_FINER = 1.0 / 32.0  # of a step, to see whether it was too long
_STEADY = 0.25  # relative change of a difference quotient, within which it is one
_FLAT = 1e-3  # of a derivative, below which a difference quotient is rounding
_RANDOM = (
    "decoder: it answers differently when asked twice, so that its output is not a function of z: dropout by "
    "functional.dropout, torch.randn or a sample; return the mean in place of a sample, and call .eval() on the model "
    "first"
)
DETACHED = (
    "decoder: its output is not differentiable in z; it was detached, computed without gradients, or outside PyTorch. "
    "Use torch operations throughout"
)
_STEPS = (
    "decoder: its values differ between points and yet do not change near them: they are rounded, chosen by argmax, or "
    "vector-quantised, so that it is neither smooth nor injective; measure before that"
)
_REJECTED = (ValueError, TypeError, RuntimeError)  # NotImplementedError is a RuntimeError
_PARTS = ("sample", "reconstruction", "recon_x", "logits", "last_hidden_state", "x_hat", "recon")


def taken_from(x: object, call: str = "lambda z: decode(z)", parts: Sequence[str] = _PARTS) -> str | None:
    """How to take a tensor out of what a function returned in its place; None where it has no parts with names.

    Args:
        x: what was returned.
        call: the function, as it is to be written.
        parts: what a tensor is called in known libraries, the likeliest first.
    """
    if isinstance(x, Mapping):
        names = [str(key) for key in x]
    elif dataclasses.is_dataclass(x):
        names = [field.name for field in dataclasses.fields(x)]
    else:
        names = list(getattr(x, "_fields", [name for name in getattr(x, "__dict__", {}) if not name.startswith("_")]))
    if not names:
        return f"take it out, such as {call}[0]" if isinstance(x, tuple | list) else None
    name = next((part for part in parts if part in names), names[0])
    at = f".{name}" if hasattr(x, name) else f"[{name!r}]"
    return f"take it out, such as {call}{at} (it has {', '.join(names[:6])})"


def check_tensor(x: object) -> None:
    """Refuse what a decoder returned in place of a tensor, and say how to take it out."""
    if isinstance(x, Tensor):
        return
    remedy = taken_from(x) or "return decoded data (B, *event) by torch operations"
    if isinstance(x, tuple):
        remedy = f"the forward of a whole autoencoder? pass its decoding part, or {remedy}"
    raise TypeError(f"decoder: expected it to return a torch.Tensor, got {type(x).__name__}; {remedy}")


def kind_of(x: Tensor, z: Tensor) -> Tensor:
    """Decoded values of the type that geometry is computed in, that of the points; complex ones as pairs of reals."""
    if x.is_complex():
        x = torch.view_as_real(x.resolve_conj())
    if not x.is_floating_point():
        raise TypeError(
            f"decoder: expected it to return floating-point values, got {x.dtype}, which have no derivative; return "
            "what they are rounded or chosen from, such as logits"
        )
    if torch.finfo(x.dtype).eps > torch.finfo(z.dtype).eps:
        remedy = (
            f"give points of that type, z.to({x.dtype})"
            if x.dtype == torch.float32
            else "half precision is too coarse: leave autocast out, and convert a copy of the model with .float()"
        )
        raise TypeError(f"decoder: it returns {x.dtype} for points of {z.dtype}, so that digits are lost; {remedy}")
    return x.to(z.dtype)


def look(f: Decoder, points: Tensor, modules: list[nn.Module]) -> None:
    r"""Decode a few rows, find the way to differentiate them, and refuse what is no decoder.

    Args:
        f: the decoder, whose ``way`` and ``composed`` are set.
        points: latent points (n, d) that it is about to be given; the first and the last are looked at.
        modules: that it leads to, to be named.

    Raises:
        TypeError: see :func:`kind_of`.
        ValueError: it answers differently when asked twice, its rows depend on each other, it has no derivative, or
            one that is not that of its values.
    """
    first, last = points[:1].clone(), points[-1:].clone()
    if torch.equal(first, last):
        last = last + _APART * torch.where(last == 0, 1.0, last.abs())
    v, h = _direction(last)
    random = torch.get_rng_state()
    alone = f(first.clone())
    f.width = alone.shape[1]
    if not torch.equal(random, torch.get_rng_state()) and not torch.equal(f(first.clone()), alone):
        torch.set_rng_state(random)
        raise ValueError(_RANDOM)
    around = None
    try:
        together = f(torch.cat([last, first, last - h * v, last + h * v]))
        around = together[[2, 0, 3]]
    except ValueError:  # a step away from the points it may have no value
        together = f(torch.cat([last, first]))
    if _differ(alone[0], together[1]):
        raise ValueError(_RANDOM if _differ(alone[0], f(first.clone())[0]) else _dependent(modules))
    z, (error, Jv) = last, _differentiated(f, last, v, h, around)
    if error is not None and len(points) > 1:  # a decoder may be odd at one point
        z, (v, h) = first, _direction(first)
        error, Jv = _differentiated(f, z, v, h, f(torch.cat([z + k * h * v for k in (-1, 0, 1)])))
    if error is None:
        error = _backwards(f, z, v, Jv, points)
    if error is not None:
        raise error


def _direction(z: Tensor) -> tuple[Tensor, float]:
    """A direction (1, d) that is along none of the coordinates, and a step for differences at points like z."""
    v = torch.arange(1, z.shape[1] + 1, dtype=z.dtype, device=z.device).cos()
    size = z.abs().amax().item()
    return (v / v.norm()).unsqueeze(0), (size if size > 0 else 1.0) * torch.finfo(z.dtype).eps ** (1 / 3)


def _differ(a: Tensor, b: Tensor) -> bool:
    """Whether two rows differ by more than rounding."""
    allowed = _SAME * torch.finfo(a.dtype).eps ** 0.5 * max(a.norm().item(), torch.finfo(a.dtype).tiny)
    return bool((a - b).norm() > allowed)  # NaN is no difference


def _dependent(modules: list[nn.Module]) -> str:
    recurrent = [m for owner in modules for m in owner.modules() if isinstance(m, nn.RNNBase | nn.Transformer)]
    named = f"{type(recurrent[0]).__name__} without a batch axis, or " if recurrent else ""
    return (
        "decoder: a row of its output depends on the rows that are decoded with it, f(z)[i] is not f(z[i:i+1])[0]: "
        f"{named}a minimum, mean or norm over the batch axis, attention among rows, batch norm without running "
        "statistics; use operations that act on each row by itself (dim=1 in place of dim=0, batch_first=True with "
        "z.unsqueeze(1))"
    )


def _differentiated(
    f: Decoder, z: Tensor, v: Tensor, h: float, around: Tensor | None
) -> tuple[ValueError | None, Tensor]:
    """Set the first way to differentiate a decoder that agrees with differences.

    Args:
        f: the decoder.
        z: a point, shape (1, d).
        v: a direction, shape (1, d).
        h: a step.
        around: decoded points a step behind, there, and a step ahead, shape (3, D); None where there are none.

    Raises:
        ValueError: there is no way.

    Returns:
        What to say where no way agrees, and the derivative along v, shape (D,).
    """
    directions = torch.stack([v, v.roll(1, 1)])[: z.shape[1]]
    wrong, usable, errors = None, WAYS[0], []
    for way in WAYS:
        f.way, f.composed = way, way != "forward"
        try:
            _, Jv = along(f, way, z.clone(), directions)
        except _REJECTED as error:
            errors.append(error)
            continue
        if around is None or not disagree(Jv[0, 0], around, h):
            return None, Jv[0, 0]
        if wrong is None:
            wrong, usable = Jv[0, 0], way
    f.way, f.composed = usable, usable != "forward"
    if wrong is None:
        last = errors[-1]
        if str(last) == DETACHED:
            raise last
        raise ValueError(
            f"decoder: it has no derivative that could be found, neither forwards ({_said(errors[0])}) nor backwards "
            f"({_said(last)}); use torch operations that can be differentiated twice"
        ) from last
    finer = f(torch.cat([z - _FINER * h * v, z, z + _FINER * h * v]))
    slope, other = (around[2] - around[0]) / (2.0 * h), (finer[2] - finer[0]) / (2.0 * _FINER * h)
    unsteady = (slope - other).norm() > _STEADY * slope.norm() + _FLAT * wrong.norm()
    if unsteady or not disagree(wrong, finer, _FINER * h):
        return None, wrong  # the step was too long
    if not wrong.any():
        return ValueError(DETACHED), wrong
    flat = bool(slope.norm() < _FLAT * wrong.norm())
    share = 100.0 * ((wrong - slope).norm() / slope.norm()).item()
    said = "decoder: its derivative is not that of its values by differences along a direction: " + (
        "they do not change. It is vector-quantised or rounded, with a straight-through gradient, so that it is "
        "neither smooth nor injective; measure before that"
        if flat
        else f"it is off by {share:.2g} %. Part of it was detached (.detach(), .data), or has a backward of its "
        "own that is wrong; let gradients pass throughout"
    )
    return ValueError(said), wrong


def _backwards(f: Decoder, z: Tensor, v: Tensor, Jv: Tensor, points: Tensor) -> ValueError | None:
    r"""What to say where the gradient is not that of the derivative, :math:`(J^\top w) \cdot v \ne w \cdot J v`.

    Args:
        f: the decoder.
        z: a point (1, d).
        v: a direction (1, d).
        Jv: the derivative along it, shape (D,).
        points: others, shape (n, d).
    """
    size = Jv.abs().amax()
    if size == 0:
        return ValueError(_STEPS) if _jumps(f, z, points) else None
    w = Jv / size
    expected, found = (w * Jv).sum(), (f.vjp(z, w.unsqueeze(0)) * v).sum()
    if (expected - found).abs() > 64.0 * torch.finfo(z.dtype).eps ** 0.5 * expected:  # NaN is no difference
        return ValueError(
            "decoder: gradients do not pass through all of it: part of it was computed under torch.no_grad(), or has "
            "a backward of its own that is wrong; let gradients pass throughout"
        )
    return None


def _jumps(f: Decoder, z: Tensor, points: Tensor) -> bool:
    """Whether a decoder that does not change near a point (1, d) jumps on the way to another."""
    others = points[:: -(-len(points) // _FEW)]
    a, x = z, f(z)[0]
    if not torch.isfinite(x).all():
        return False
    apart = (f(others) - x).norm(dim=1).nan_to_num(0.0)
    b, whole = others[apart.argmax(), None], apart.amax()
    y = f(b)[0]
    for _ in range(round(-math.log2(torch.finfo(z.dtype).eps))):
        middle = torch.lerp(a, b, 0.5)
        m = f(middle)[0]
        a, x, b, y = (a, x, middle, m) if (m - x).norm() > (y - m).norm() else (middle, m, b, y)
    return bool((y - x).norm() > 0.01 * whole)


def _said(error: Exception) -> str:
    """The first sentence of an error, of what caused it."""
    text = str(error.__cause__ or error).strip()
    return text.splitlines()[0].partition(". ")[0][:200] if text else type(error).__name__


def _bends_otherwise(second: Tensor, Ju: Tensor, h: float) -> bool:
    """Whether differences at five points (5, D) show a second derivative, and another one; not so at a kink."""
    slope, finer = (Ju[4] - Ju[0]) / (2.0 * h), (Ju[3] - Ju[1]) / h
    steady = (slope - finer).norm() <= _STEADY * slope.norm()
    return bool(steady) and disagree(second, Ju[::2], h) and disagree(second, Ju[1:4], 0.5 * h)


def second_way(f: Decoder, points: Tensor) -> None:
    """Set the first way to differentiate a decoder twice that agrees with differences of its first derivative.

    Raises:
        ValueError: there is none.
    """
    finite = points[torch.isfinite(points).all(1)]
    if len(finite) == 0:
        return
    rows, z = f.rows, finite[-1:].detach()
    v, h = _direction(z)
    u = v.roll(1, 1)
    around = torch.cat([z + step * v for step in (-h, -0.5 * h, 0.0, 0.5 * h, h)])
    wrong, errors = None, []
    for way in WAYS[WAYS.index(f.way) :]:
        f.composed = f.composed or way != "forward"
        try:
            Ju = along(f, f.way, around, u.expand_as(around).unsqueeze(0))[1][0]
            second = second_along(f, way, z, torch.stack([u, v]), torch.stack([v, v]))[2][0, 0]
        except _REJECTED as error:
            errors.append(error)
            continue
        if not torch.isfinite(Ju).all() or not _bends_otherwise(second, Ju, h):
            f.second_way, f.rows = way, rows
            return
        wrong = second
    if wrong is None:
        raise ValueError(
            f"decoder: expected one that can be differentiated twice, but {_said(errors[-1])}; use torch operations "
            "that can be, or what needs no second derivative: metric, geodesics, distances"
        ) from errors[-1]
    raise ValueError(
        "decoder: its second derivative is not that of its values, by differences of its first; part of its derivative "
        "was detached, or has a backward of its own that is wrong"
    )
