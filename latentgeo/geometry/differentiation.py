r"""Derivatives of a decoder along directions, by whichever way PyTorch can go through it, checked against differences.

Three ways lead to :math:`J v` and :math:`D^2 f(u, v)`, and the first that is right is taken:

- ``forward``: forward-mode differentiation, nested for the second derivative, of all directions at once.
- ``composed``: the same, with operations that have no forward derivative (the distances of ``torch.cdist``, fused
  attention and recurrent kernels, re-entrant checkpoints), or a wrong second one (layer normalisation), put together
  from others that have.
- ``reverse``: from the gradient :math:`J^\top w`, which is linear in a cotangent w, so that differentiating it by w
  gives :math:`J v`; for custom ``autograd.Function`` without ``jvp`` and ``grid_sample``.

Reference: Townsend, "A new trick for calculating Jacobian vector products", 2017 (the last).
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.forward_ad import make_dual, unpack_dual
from torch.func import jvp, vmap
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint as checkpointing

WAYS = ("forward", "composed", "reverse")
Function = Callable[[Tensor], Tensor]  # (B, d) -> (B, D)
_LOCK = threading.RLock()  # PyTorch keeps levels of forward mode, and the switches below, for all threads at once


Old = tuple[bool, str]  # the two switches that PyTorch had before 2.9: cuDNN's TF32, and the precision of products


class _Precision:
    """How the switches stood before the first block of :func:`full_precision`."""

    blocks = 0
    old: Old | None = None
    newer: tuple[tuple[object, str], ...] = ()


def _newer_switches() -> list[object]:
    backends = torch.backends
    places = [(backends.cuda, "matmul"), (backends.cudnn, "conv"), (backends.cudnn, "rnn")]
    places += [(backends.mkldnn, name) for name in ("matmul", "conv", "rnn")]
    found = [getattr(place, name) for place, name in places if hasattr(place, name)]
    return [switch for switch in found if hasattr(switch, "fp32_precision")]


def _old_switches() -> Old | None:
    """None where the newer ones were set apart, so that the old ones cannot be read."""
    with contextlib.suppress(RuntimeError), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some versions advise the newer ones
        return torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    return None


def _keep_digits() -> None:
    old, newer = _Precision.old, _Precision.newer
    if old is not None and old[0]:  # what is set no longer follows the switch above it
        torch.backends.cudnn.allow_tf32 = False
    if old is not None and old[1] != "highest":
        torch.set_float32_matmul_precision("highest")
    for switch, _ in newer:
        if switch.fp32_precision not in ("ieee", "none"):
            switch.fp32_precision = "ieee"


def _set_back() -> None:
    old, newer = _Precision.old, _Precision.newer
    if old is not None and old[0]:
        torch.backends.cudnn.allow_tf32 = True
    if old is not None and old[1] != "highest":
        torch.set_float32_matmul_precision(old[1])
    for switch, value in newer:
        if switch.fp32_precision != value:
            switch.fp32_precision = "none"  # which follows the switch above it
            if switch.fp32_precision != value:
                switch.fp32_precision = value


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Multiply and convolve numbers of single precision as such in the block, and then set all switches back.

    PyTorch convolves on GPUs in TF32 by default, and after ``torch.set_float32_matmul_precision("high")`` or
    ``"medium"`` it multiplies in TF32 or bfloat16, on some CPUs too: 10 or 7 bits, too few for derivatives and for what
    is claimed of lengths. The switches are PyTorch's own, for all threads at once. A backward pass that the caller
    starts later, through a metric for instance, is as they stand then.
    """
    with _LOCK:
        if _Precision.blocks == 0:
            _Precision.old = _old_switches()
            _Precision.newer = tuple((switch, switch.fp32_precision) for switch in _newer_switches())
            try:
                _keep_digits()
            except BaseException:
                _set_back()
                raise
        _Precision.blocks += 1
    try:
        yield
    finally:
        with _LOCK:
            _Precision.blocks -= 1
            if _Precision.blocks == 0:
                _set_back()


def _cdist(a: Tensor, b: Tensor, p: float = 2.0, compute_mode: str | None = None) -> Tensor:
    return torch.linalg.vector_norm(a.unsqueeze(-2) - b.unsqueeze(-3), p, dim=-1)


def _normalised(x: Tensor, axes: list[int], eps: float) -> Tensor:
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True) + eps).sqrt()


def _layer_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: object,
) -> Tensor:
    x = _normalised(x, list(range(-len(normalized_shape), 0)), eps)
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _group_norm(
    x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    groups = x.unflatten(1, (num_groups, -1))
    y = _normalised(groups, list(range(2, groups.ndim)), eps).flatten(1, 2)
    channels = (-1, *[1] * (x.ndim - 2))
    y = y if weight is None else y * weight.reshape(channels)
    return y if bias is None else y + bias.reshape(channels)


def _unfused(function: Function) -> Function:
    def run(*args: object, **kwargs: object) -> object:
        places = torch.backends.mkldnn, torch.backends.cudnn  # whose flags() would also read TF32's switches
        before = [place.enabled for place in places]
        try:
            for place in places:
                place.enabled = False
            return function(*args, **kwargs)
        finally:
            for place, enabled in zip(places, before, strict=True):
                place.enabled = enabled

    return run


_COMPOSED = {
    torch.cdist: _cdist,
    functional.layer_norm: _layer_norm,
    functional.group_norm: _group_norm,
    **{function: _unfused(function) for function in (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)},
}


class Composed(TorchFunctionMode):
    """Within this context operations without derivatives are put together from others, which have them."""

    def __torch_function__(
        self, function: Callable, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        """Call the composition in place of the operation."""
        return _COMPOSED.get(function, function)(*args, **(kwargs or {}))

    def __enter__(self) -> Composed:
        """Also without the checkpoints that take nothing but ``backward``."""
        _LOCK.acquire()
        self._apply = checkpointing.CheckpointFunction.apply
        checkpointing.CheckpointFunction.apply = lambda function, preserve, *args: function(*args)
        self._fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        self._attention = sdpa_kernel(SDPBackend.MATH)
        self._attention.__enter__()
        return super().__enter__()

    def __exit__(self, *raised: object) -> None:
        """As it was."""
        super().__exit__(*raised)
        self._attention.__exit__(*raised)
        torch.backends.mha.set_fastpath_enabled(self._fast)
        checkpointing.CheckpointFunction.apply = self._apply
        _LOCK.release()


def _without_bias(layer: Callable) -> Callable:
    return lambda x, weight, bias=None, *rest: layer(x, weight, None, *rest)


def _scaled(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    """Batch normalisation without its shift, if it does not follow the batch."""
    if training:
        return None
    return functional.batch_norm(x, torch.zeros_like(running_mean), running_var, weight, eps=eps)


_LAYERS = [getattr(functional, f"conv{of}{n}d") for of in ("", "_transpose") for n in (1, 2, 3)] + [functional.linear]
# Operations that are affine in their first argument, and their linear parts.
_AFFINE = {
    **{layer: _without_bias(layer) for layer in _LAYERS},
    **{product: product for place in (torch, Tensor) for product in (place.mul, place.div, place.matmul)},
    **{total: lambda x, _: x for place in (torch, Tensor) for total in (place.add, place.sub)},
    functional.batch_norm: _scaled,
}
_EITHER_WAY = {operation for place in (torch, Tensor) for operation in (place.mul, place.add)}


class _Apart(TorchFunctionMode):
    """Within this context what is affine acts on values and on their tangents apart.

    PyTorch differentiates W x + b by W and b too. Their tangents are zeros, with which it computes: a convolution takes
    one and a half times as long for that, a dense layer two and a half times, batch normalisation five times.
    """

    def __torch_function__(
        self, function: Callable, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        """Call the operation once for values, and its linear part once for tangents, if nothing else has a tangent."""
        kwargs = kwargs or {}
        result = self._apart(function, args, kwargs) if function in _AFFINE and args else None
        return function(*args, **kwargs) if result is None else result

    def _apart(self, function: Callable, args: tuple, kwargs: dict) -> Tensor | None:
        level = torch._C._functorch.peek_interpreter_stack()
        if level is None or level.key() != torch._C._functorch.TransformType.Jvp:
            return None
        if kwargs and function is not functional.batch_norm:
            return None
        moving = [k for k, of in enumerate((*args, *kwargs.values())) if _tangent(of) is not None]
        if moving == [1] and function in _EITHER_WAY:
            args, moving = args[::-1], [0]
        if moving != [0]:
            return None
        value, tangent = unpack_dual(args[0])
        tangent = _AFFINE[function](tangent, *args[1:], **kwargs)
        if tangent is None:
            return None
        value = function(value, *args[1:], **kwargs)
        alike = (tangent.shape, tangent.dtype) == (value.shape, value.dtype)
        return make_dual(value, tangent) if alike else None


def _tangent(of: object) -> Tensor | None:
    return unpack_dual(of).tangent if isinstance(of, Tensor) else None


def _pushed_forward(f: Function, z: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """f(z) and J v by forward mode."""

    def apart(z: Tensor) -> Tensor:
        with _Apart():
            return f(z)

    return jvp(apart, (z,), (v,))


def along(f: Function, way: str, z: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Values and J v: points (B, d) and directions (m, B, d) -> (B, D) and (m, B, D)."""
    if way == "reverse":
        return _reverse_along(f, z, directions)
    z = z.detach().contiguous()  # an expanded tensor cannot be pushed forward
    with _LOCK:
        if len(directions) == 1:
            x, Jv = _pushed_forward(f, z, directions[0].contiguous())
            return x.detach(), Jv.detach().unsqueeze(0)
        # The primal pass is shared by all directions.
        x, Jv = vmap(lambda v: _pushed_forward(f, z, v), out_dims=(None, 0))(directions.contiguous())
    return x.detach(), Jv.detach()


def _reverse_along(f: Function, z: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        x, w, pulled = _pulled(f, z.detach().clone().requires_grad_())
        columns = [_pushed(pulled, w, v, retain_graph=True) for v in directions]
    return x.detach(), torch.stack(columns).detach()


def tangent(f: Function, way: str, z: Tensor, v: Tensor) -> Tensor:
    """J v with its graph, to be differentiated by z and v: (B, d) each -> (B, D)."""
    if way != "reverse":
        with _LOCK:
            return _pushed_forward(f, z, v)[1]
    _, w, pulled = _pulled(f, z)
    return _pushed(pulled, w, v, create_graph=True)


def _pulled(f: Function, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values x, a cotangent w, and Jᵀ w, all with their graphs."""
    x = f(z)
    w = torch.zeros_like(x).requires_grad_()
    (pulled,) = torch.autograd.grad(x, z, w, create_graph=True, materialize_grads=True)
    return x, w, pulled


def _pushed(pulled: Tensor, w: Tensor, v: Tensor, **graph: bool) -> Tensor:
    """J v, the derivative of Jᵀ w by w."""
    (Jv,) = torch.autograd.grad(pulled, w, v, allow_unused=True, **graph)
    if Jv is None:
        raise RuntimeError(
            "the backward of one of its operations cannot be differentiated (once_differentiable); let it use torch "
            "operations, or give the autograd.Function a jvp"
        )
    return Jv


def second_along(f: Function, way: str, z: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values, J u and D²f(u, v): points (B, d) and directions (m, B, d) each -> (B, D), and (m, B, D) each."""
    # With gradients switched off PyTorch differentiates some activations (SiLU, Mish) by a kernel of their own,
    # which has no derivative.
    with torch.enable_grad(), _LOCK:
        if way == "reverse":
            return _reverse_second(f, z, u, v)

        def pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            (x, first), (_, second) = jvp(lambda point: _pushed_forward(f, point, a), (z,), (b,))
            return x, first, second

        z, u, v = z.detach().contiguous(), u.contiguous(), v.contiguous()
        if len(u) == 1:
            x, *parts = pair(u[0], v[0])
            first, second = (of.unsqueeze(0) for of in parts)
        else:
            x, first, second = vmap(pair, out_dims=(None, 0, 0))(u, v)  # the primal pass is shared by all directions
    return x.detach(), first.detach(), second.detach()


def _reverse_second(f: Function, z: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    z = z.detach().clone().requires_grad_()
    x, w, pulled = _pulled(f, z)
    kept = {"retain_graph": True, "materialize_grads": True}
    first, second = [], []
    for a, b in zip(u, v, strict=True):
        first.append(_pushed(pulled, w, a, retain_graph=True))
        (turned,) = torch.autograd.grad(pulled, z, b, create_graph=True, materialize_grads=True)  # ∇ (w · J b)
        flat = not turned.requires_grad
        second.append(torch.zeros_like(x) if flat else torch.autograd.grad(turned, w, a, **kept)[0])
    return x.detach(), torch.stack(first).detach(), torch.stack(second).detach()


def disagree(value: Tensor, around: Tensor, h: float) -> bool:
    r"""Whether a derivative along a direction cannot be that of the function, by differences of its values.

    .. math:: \Big\| y - \frac{f_+ - f_-}{2h} \Big\| >
        3 \Big\| \frac{f_+ - 2 f_0 + f_-}{h} \Big\| + \tau\, \Big\| \frac{f_+ - f_-}{2h} \Big\| + \text{rounding}

    The first term on the right lets kinks pass.

    Args:
        value: y, shape (D,).
        around: values a step behind, there, and a step ahead, shape (3, D).
        h: the step.
    """
    eps = torch.finfo(value.dtype).eps
    behind, at, ahead = around
    slope, bend = (ahead - behind) / (2.0 * h), (ahead - 2.0 * at + behind) / h
    rounding = 64.0 * eps * around.norm(dim=1).amax() / h
    allowed = 3.0 * bend.norm() + 4.0 * eps ** (1 / 3) * slope.norm() + rounding
    return bool((value - slope).norm() > allowed)  # NaN is no counter-example
