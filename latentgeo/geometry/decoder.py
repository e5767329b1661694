"""What a decoder is: a row-wise map (B, d) -> (B, *event), checked once; several as one; in bounded memory."""

from __future__ import annotations

import contextlib
import copy
import math
import numbers
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.utils.checkpoint import checkpoint

from latentgeo.geometry.differentiation import WAYS, Composed, along, full_precision, second_along
from latentgeo.geometry.door import DETACHED, check_tensor, kind_of, look, second_way
from latentgeo.geometry.reach import Untouched, check_modes, owner_of

DecoderLike = Callable[[Tensor], object]  # (B, d) -> (B, *event), or -> a distribution of as many rows
_ORDINARY = 32  # binary orders of magnitude, either way, in which decoded values are taken as they are
_ENTRIES = 2**24  # numbers of decoded points held at a time


def check_points(name: str, z: Tensor, ndim: int | None = None) -> None:
    """Refuse anything but a finite floating-point tensor (*batch, d).

    Args:
        name: what the caller calls the argument.
        z: latent points.
        ndim: the number of axes asked for, or None for one at least.

    Raises:
        TypeError: not a tensor, or not of floating-point type.
        ValueError: wrong number of axes, no latent axis, or NaN or infinity among the values.
    """
    if not isinstance(z, Tensor):
        remedy = "take its first part, the mean" if isinstance(z, tuple) else "convert with torch.as_tensor(...)"
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(z).__name__}; {remedy}")
    if not z.is_floating_point():
        raise TypeError(f"{name}: expected a floating-point tensor, got {z.dtype}; convert with {name}.double()")
    if ndim is not None and z.ndim != ndim:
        shape = "(P, d)" if ndim == 2 else "(P, M + 1, d)"
        remedy = f"a single one goes in as {name}.unsqueeze(0)" if z.ndim < ndim else "encode data first"
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(z.shape)}; {remedy}")
    if z.ndim == 0 or z.shape[-1] == 0:
        raise ValueError(f"{name}: expected shape (*batch, d) with d ≥ 1, got {tuple(z.shape)}")
    if not torch.isfinite(z).all():
        raise ValueError(f"{name}: expected finite values, got NaN or infinity; drop those rows first")


def check_finite(name: str, decoded: Tensor) -> None:
    """Refuse points of which a decoder makes NaN or infinity, from what it makes of them, (n, D)."""
    bad = int((~torch.isfinite(decoded).all(1)).sum())
    if bad:
        raise ValueError(
            f"{name}: the decoder is not finite at {bad} of {len(decoded)} points, which have no distance to any "
            "other; drop those rows first"
        )


class Decoder:
    r"""A decoder as geometry takes it, made once by :func:`as_decoder`: :math:`f: (B, d) \to (B, D)` and derivatives.

    The space that the image lies in is Euclidean here; a decoder that returns distributions brings its own,
    :class:`latentgeo.geometry.likelihood.StatisticalDecoder`.

    Attributes:
        source: the callable it was made of.
        dtype: of the parameters of the module that this is or belongs to; None without such.
        rows: latent points decoded so far.
        flat: whether the space that the image lies in is Euclidean.
        unit: that decoded values are given in, a power of two; 1 unless squares of them could not be represented.
        way: of differentiation, one of :data:`latentgeo.geometry.differentiation.WAYS`.
        composed: whether operations without derivatives are put together from others.
        second_way: of differentiating twice, None until that is asked for.
        width: D, None until something was decoded.
        writes: whether the source changes the points that it is given, so that it is given copies.
    """

    flat = True
    unit = 1.0
    way = "forward"
    composed = False
    second_way: str | None = None
    width: int | None = None
    writes = False

    def __init__(self, source: DecoderLike, dtype: torch.dtype | None = None) -> None:
        self.source, self.dtype, self.rows = source, dtype, 0

    def __call__(self, z: Tensor) -> Tensor:
        """Decode: (B, d) -> (B, D), the event flattened to D."""
        if len(z) == 0 and self.width is not None:  # of which many networks cannot tell the shape
            return z.new_zeros(0, self.width) + z.sum(1, keepdim=True)
        self.rows += len(z)
        return self._flat(self.output(z), z)

    def output(self, z: Tensor) -> object:
        """What the source returns, which may be a distribution: (B, d) -> (B, *event)."""
        with Composed() if self.composed else contextlib.nullcontext():
            return output_of(self.source, z.clone() if self.writes else z)

    def _flat(self, x: object, z: Tensor) -> Tensor:
        """What the source returned for z as rows (B, D), checked; complex numbers as pairs of reals."""
        check_tensor(x)
        if x.ndim < 2 or len(x) != len(z):
            raise ValueError(
                f"decoder: expected (B, d) -> (B, *event), but {tuple(z.shape)} gave {tuple(x.shape)}; "
                "return one row for each latent point, e.g. x.reshape(len(z), -1); a condition is held fixed, see "
                "lg.latent_model"
            )
        if x.numel() == 0 and len(x) > 0:
            raise ValueError(f"decoder: expected at least one value for each latent point, got shape {tuple(x.shape)}")
        if torch.is_grad_enabled() and z.requires_grad and not x.requires_grad:
            raise ValueError(DETACHED)
        x = kind_of(x, z).flatten(1)
        return x if self.unit == 1.0 else x / self.unit

    def in_units_of(self, z: Tensor) -> Decoder:
        """The same decoder in units in which values at latent points (B, d) can be squared: itself if they can be."""
        if not self.flat:
            return self
        size = self(z).abs().amax().item()
        if not math.isfinite(size) or size == 0.0 or abs(math.log2(size)) < _ORDINARY:
            return self
        scaled = copy.copy(self)
        scaled.unit = 2.0 ** round(math.log2(size))
        return scaled

    def condensed(self) -> Decoder:
        r"""A decoder with the same chords and derivatives' products, of fewer numbers: itself if none is known.

        Where a chain of layers ends in a linear one with more outputs than inputs, :math:`f = W h + b`, and
        :math:`W = QR` with orthonormal Q, only h and the triangular R are needed:

        .. math:: \|f(z) - f(z')\| = \|R\, (h(z) - h(z'))\|.
        """
        source = _condensed(self.source) if self.flat else None
        if source is None:
            return self
        smaller = copy.copy(self)
        smaller.source, smaller.width = source, None
        return smaller

    def stateless(self) -> bool:
        """Whether several threads may decode at once: a chain of PyTorch's own layers, which keep nothing in a pass."""
        source = self.source
        if not (_plain(source, Ensemble) or _plain(source, nn.Sequential)):
            return False
        layers = [module for module in source.modules() if not _plain(module, Ensemble)]
        return all(type(of).__module__.startswith("torch.nn.modules.") and _plain(of, type(of)) for of in layers)

    def isometric(self, z: Tensor) -> Tensor:
        """A map (B, d) -> (B, D) whose Jacobian J at z squares to the metric, G = JᵀJ: f itself."""
        return self(z)

    def jvp(self, z: Tensor, v: Tensor) -> Tensor:
        """J v, (B, d) each -> (B, D); NaN in the rows where f is not finite."""
        x, Jv = self._along(z, v.unsqueeze(0))
        return Jv[0].masked_fill(~torch.isfinite(x), torch.nan)

    def _along(self, z: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Decoded points and J v, (B, d) and (m, B, d) -> (B, D) and (m, B, D), by another way where this one fails."""
        try:
            return along(self.isometric, self.way, z, directions)
        except (RuntimeError, ValueError) as error:  # some operations fail in batches of some layouts alone
            if "memory" in str(error) or self.way == WAYS[-1]:
                raise
            way, self.way, self.composed = self.way, WAYS[WAYS.index(self.way) + 1], True
            try:
                return self._along(z, directions)
            except (RuntimeError, ValueError):
                self.way, self.composed = way, way != WAYS[0]
                raise error from error.__cause__

    def vjp(self, z: Tensor, w: Tensor) -> Tensor:
        """The derivative of f transposed times w, (B, d) and (B, D) -> (B, d)."""
        z = z.detach().clone().requires_grad_()
        with torch.enable_grad():
            (pulled_back,) = torch.autograd.grad((self(z) * w).sum(), z)
        return pulled_back

    def jacobian(self, z: Tensor) -> Tensor:
        """J, (B, d) -> (B, D, d); NaN in the rows where f is not finite."""
        return self._linearised(z)[1]

    def linearised(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Decoded points and J, (B, d) -> (B, D) and (B, D, d)."""
        return self._linearised(z)

    def _linearised(self, z: Tensor) -> tuple[Tensor, Tensor]:
        basis = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
        x, columns = self._along(z, basis[:, None].expand(-1, *z.shape))  # [B, D], [d, B, D]
        # Outside of a decoder's domain a derivative may be finite where the decoder is not (the logarithm's, below 0).
        return x, columns.masked_fill(~torch.isfinite(x), torch.nan).permute(1, 2, 0)

    def second_derivative(self, z: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """J u and D²f(u, v): points and directions, (B, d) each -> (B, D) each."""
        first, second = self.second_derivatives(z, u.expand_as(z).unsqueeze(0), v.expand_as(z).unsqueeze(0))
        return first[0], second[0]

    def second_derivatives(self, z: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The same for several pairs of directions: (B, d) and twice (m, B, d) -> (m, B, D) each."""
        if self.second_way is None:
            second_way(self, z)
        x, first, second = second_along(self, self.second_way or self.way, z, u, v)
        broken = ~torch.isfinite(x)  # where a derivative may be finite for all that
        return first.masked_fill(broken, torch.nan), second.masked_fill(broken, torch.nan)

    def squared(self, a: Tensor, b: Tensor) -> Tensor:
        """What single coordinates add to the squared length of short steps, (*batch, D) each -> (*batch, D')."""
        return (b - a).square()

    def step(self, a: Tensor, b: Tensor) -> Tensor:
        """Length of short steps between decoded points, the root of that sum: (*batch, D) each -> (*batch,)."""
        return self.chord(a, b)

    def chord(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of decoded points in the space of the image, of which no curve on it is shorter: -> (*batch,)."""
        return (b - a).norm(dim=-1)

    def tangent(self, a: Tensor, v: Tensor) -> Tensor:
        """A small change v of decoded points a, (*batch, D) each, in the coordinates of :meth:`isometric`."""
        return v

    def from_tangent(self, a: Tensor, v: Tensor) -> Tensor:
        """The change of decoded points a that a vector v in those coordinates is, (*batch, D) each."""
        return v

    def tangent_gradient(self, a: Tensor, g: Tensor) -> Tensor:
        """A derivative g by decoded points a as one by those coordinates, (*batch, D) each."""
        return g

    def rounding(self, x: Tensor) -> Tensor:
        """Distance that rounding may move decoded points of curves by: (P, M, D) -> (P,)."""
        return torch.finfo(x.dtype).eps * x.norm(dim=-1).amax(1)

    def chords(self, x: Tensor, y: Tensor) -> Tensor:
        """Chords from each of some decoded points to each of others: (R, D) and (n, D) -> (R, n)."""
        # About the mean the fast formula |a|² - 2 a·b + |b|² loses nothing that matters.
        centre = y.mean(0)
        return torch.cdist(x - centre, y - centre)

    def bytes_per_row(self, z: Tensor) -> tuple[int, int]:
        """Memory that one more latent point takes: what autograd keeps for it, and its output; z has shape (B, d)."""

        def saved(rows: int) -> tuple[int, int]:
            sizes: list[int] = []

            def pack(tensor: Tensor) -> Tensor:
                sizes.append(tensor.numel() * tensor.element_size())
                return tensor

            with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                x = self(z[:1].expand(rows, -1).clone().requires_grad_())
            return sum(sizes), x[0].numel() * x.element_size()

        (one, _), (two, output) = saved(1), saved(2)
        return max(two - one, 0), output


def _plain(module: object, *kinds: type[nn.Module]) -> bool:
    """Whether a module does what one of these kinds does, and nothing besides."""
    if not isinstance(module, nn.Module) or type(module).__call__ is not nn.Module.__call__:
        return False
    changed = "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks
    return not changed and type(module).forward in [kind.forward for kind in kinds]


def _condensed(source: object) -> nn.Module | None:
    """See :meth:`Decoder.condensed`."""
    if _plain(source, Ensemble):
        parts = [_condensed(source[k]) for k in range(len(source))]
        return None if None in parts else Ensemble(parts)
    if not _plain(source, nn.Sequential):
        return None
    layers = list(source)
    while layers and _plain(layers[-1], nn.Unflatten, nn.Flatten, nn.Identity):
        layers.pop()
    if not layers or not _plain(layers[-1], nn.Linear) or layers[-1].out_features <= layers[-1].in_features:
        return None
    W = layers[-1].weight.detach()
    # Without the usual first weights, which would be drawn from the caller's generator.
    layers[-1] = nn.utils.skip_init(nn.Linear, len(W.T), len(W.T), bias=False, device=W.device, dtype=W.dtype)
    layers[-1].weight = nn.Parameter(torch.linalg.qr(W.double(), mode="r").R.to(W.dtype), requires_grad=False)
    return nn.Sequential(*layers)


def rows_at_once(f: Decoder, like: Tensor) -> int:
    """How many latent points to decode at a time, so that their images (B, D) stay within 2^24 numbers."""
    with torch.no_grad():
        return max(1, _ENTRIES // f(like[:1]).shape[1])


def output_of(source: DecoderLike, z: Tensor) -> object:
    """What a decoder returns, or what it lacks to decode these points."""
    try:
        return source(z)
    except TypeError as error:
        if "required positional argument" not in str(error):
            raise
        raise TypeError(
            f"decoder: expected a callable of latent points alone, got one that takes more ({error}); hold a label, "
            "batch or time fixed: lg.latent_model((encode, decode), condition=c).decoder, or lambda z: decode(z, "
            "c.expand(len(z), -1))"
        ) from error
    except RuntimeError as error:
        if "memory" in str(error):  # which is not the points' fault
            raise
        raise ValueError(
            f"decoder: could not decode latent points of shape {tuple(z.shape)} and type {z.dtype}: {error}. "
            "Expected codes (B, d) with the decoder's number of latent dimensions d and of its type, and the "
            "decoding part of a model alone, such as model.decode"
        ) from error


def as_decoder(decoder: DecoderLike, like: Tensor) -> Decoder:
    """The door: a decoder as a :class:`Decoder`, after a look at a few of its rows; one already made as it is.

    Nothing that the caller has is changed: points are copied, and buffers that decoding changes are put back.

    Args:
        decoder: any callable (B, d) -> (B, *event), or (B, d) -> ``torch.distributions.Distribution``.
        like: points (*batch, d) of the dtype that the decoder is about to be given. The first, the last and others near
            them are decoded, to see what comes out.

    Raises:
        TypeError: not callable, a module whose parameters have another dtype than the points, or output that is no
            tensor of floating-point values or a distribution of unknown family.
        ValueError: a module that it leads to is in training mode, or its buffers change; rows depend on chance or each
            other; the derivative is not that of the values, or there is none; or points that it cannot decode.
    """
    if isinstance(decoder, Decoder):
        _check_dtype(decoder, like)
        return decoder
    if not callable(decoder):
        remedy = "; pass its decoder" if callable(getattr(decoder, "decoder", None)) else ""
        raise TypeError(f"decoder: expected a callable (B, d) -> (B, *event), got {type(decoder).__name__}{remedy}")
    modules = check_modes("decoder", decoder)
    if any(p.is_inference() for module in modules for p in module.parameters()):
        raise ValueError(
            "decoder: its parameters were made in inference mode, where nothing can be differentiated; build or load "
            "the model outside torch.inference_mode(), or take copy.deepcopy(model) outside"
        )
    owner = owner_of(decoder)
    parameters = owner.parameters() if isinstance(owner, nn.Module) else ()
    made = Decoder(decoder, next((p.dtype for p in parameters if p.is_floating_point()), None))
    _check_dtype(made, like)
    # Without inference mode, or a decoder would keep tensors that no gradient may pass.
    with full_precision(), torch.inference_mode(False), torch.no_grad(), Untouched("decoder", modules):
        points = like.detach().reshape(-1, like.shape[-1])
        points = points if len(points) else like.new_zeros(1, like.shape[-1])
        first = points[:1].clone()
        if isinstance(made.output(first), Distribution):
            from latentgeo.geometry.likelihood import StatisticalDecoder  # which builds on this module

            made = StatisticalDecoder(decoder, made.dtype, points[:1].clone())
        made.writes = not torch.equal(first, points[:1])
        look(made, points, modules)
    made.rows = 0
    return made


def _check_dtype(made: Decoder, like: Tensor) -> None:
    if made.dtype not in (None, like.dtype):
        raise TypeError(
            f"decoder: its parameters are {made.dtype} but the points are {like.dtype}; "
            "convert the points, or a copy of the decoder, so that both agree"
        )


class Ensemble(nn.Module):
    r"""K decoders as the single decoder whose pull-back metric is their expected metric.

    .. math:: F(z) = (f_1(z), \ldots, f_K(z)) / \sqrt{K},
        \qquad J_F^\top J_F = \frac{1}{K} \sum_{k=1}^{K} J_k^\top J_k.

    Chords measure the same way: :math:`\|F(b) - F(a)\|^2 = \frac{1}{K} \sum_k \|f_k(b) - f_k(a)\|^2`, the *same*
    decoder at both ends. A curve's discrete energy therefore converges as the curve is refined, the metric is
    Riemannian, and the identifiability theorem covers it.

    Args:
        decoders: the K decoders, each mapping (B, d) -> (B, *event) with the same event shape. Modules among them
            are registered as submodules.

    Raises:
        ValueError: no decoder was given.
        TypeError: an entry is not callable.

    Example:
        >>> import torch
        >>> F = Ensemble([lambda z: 1.0 * z, lambda z: 3.0 * z])
        >>> F(torch.ones(2, 5)).shape
        torch.Size([2, 2, 5])
        >>> (F(torch.ones(1, 1)) - F(torch.zeros(1, 1))).square().sum()  # the mean of 1 and 9
        tensor(5.0000)
    """

    def __init__(self, decoders: Sequence[Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        decoders = list(decoders)
        if not decoders:
            raise ValueError("Ensemble expects at least one decoder, got none")
        for k, decoder in enumerate(decoders):
            if not callable(decoder):
                raise TypeError(
                    f"Ensemble expects callables (B, d) -> (B, *event), but entry {k} is a {type(decoder).__name__}"
                )
        self._callables = decoders
        self.modules_of_decoders = nn.ModuleList(f for f in decoders if isinstance(f, nn.Module))

    def __len__(self) -> int:
        """Return the number of decoders K."""
        return len(self._callables)

    def __getitem__(self, k: int) -> Callable[[Tensor], Tensor]:
        """Return decoder k alone (without the factor 1/√K)."""
        return self._callables[k]

    def forward(self, z: Tensor) -> Tensor:
        """Decode with every member: (B, d) -> (B, K, *event), scaled by 1/√K."""
        decoded = [decoder(z.clone()) for decoder in self._callables]  # one may work in place
        for x in decoded:
            check_tensor(x)
        return torch.stack(decoded, dim=1) / len(self) ** 0.5


class Chunked(nn.Module):
    r"""A decoder that is given at most this many latent points at a time.

    .. math:: F(z_1, \ldots, z_B) = \big(f(z_1, \ldots, z_r),\; f(z_{r+1}, \ldots, z_{2r}),\; \ldots\big)

    Its values and derivatives are those of f. Where they are differentiated by ``backward`` or
    ``torch.autograd.grad``, also twice, the intermediate results of f are not kept but made again, chunk by chunk: the
    peak memory is that of f on r points, and of the outputs, for a third pass through f. With geodesics of N segments
    all inner points of a curve are decoded at once, so that a decoder of images is what needs this.

    Under the transforms of ``torch.func`` (``jvp``, ``vmap``, ``jacrev``, …), which can make nothing again, it goes
    through the points in the same chunks and keeps what f keeps.

    Args:
        decoder: f, mapping (B, d) -> (B, *event), row by row; a module is registered as submodule.
        rows: r, the number of latent points at a time.

    Raises:
        TypeError: the decoder is not callable.
        ValueError: rows is not a whole number of at least one.

    References:
        Chen, Xu, Zhang and Guestrin, "Training Deep Nets with Sublinear Memory Cost", 2016.

    Example:
        >>> import torch
        >>> seen = []
        >>> f = Chunked(lambda z: (seen.append(len(z)), z.square())[1], rows=2)
        >>> f(torch.tensor([[1.0], [2.0], [3.0]])).squeeze(1), seen
        (tensor([1., 4., 9.]), [2, 1])
    """

    def __init__(self, decoder: DecoderLike, rows: int) -> None:
        super().__init__()
        if not callable(decoder):
            raise TypeError(
                f"Chunked expects a callable (B, d) -> (B, *event), got {type(decoder).__name__}; of a model with an "
                "encoder and a decoder it takes the decoder"
            )
        if not isinstance(rows, numbers.Integral) or rows < 1:
            raise ValueError(f"rows: expected a whole number of at least 1, got {rows!r}")
        self.decoder, self.rows = decoder, int(rows)

    def extra_repr(self) -> str:
        """Show the number of rows."""
        return f"rows={self.rows}"

    def forward(self, z: Tensor) -> Tensor:
        """Decode chunk by chunk: (B, d) -> (B, *event)."""
        chunks = z.split(self.rows)
        if len(chunks) == 1:
            return self.decoder(z)
        if torch.is_grad_enabled() and not transforming():
            return torch.cat([checkpoint(self.decoder, chunk, use_reentrant=False) for chunk in chunks])
        return torch.cat([self.decoder(chunk) for chunk in chunks])


def transforming() -> bool:
    """Whether a transform of ``torch.func`` is under way."""
    return torch._C._functorch.peek_interpreter_stack() is not None
