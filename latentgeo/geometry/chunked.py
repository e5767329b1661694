"""Large decoders in bounded memory: a few latent points at a time, and again when they are differentiated."""

from __future__ import annotations

import numbers

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from latentgeo.geometry.decoder import Decoder


class Chunked(nn.Module):
    r"""A decoder that is given at most so many latent points at a time.

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
        ValueError: rows is no whole number of at least one.

    References:
        Chen, Xu, Zhang and Guestrin, "Training Deep Nets with Sublinear Memory Cost", 2016.

    Example:
        >>> import torch
        >>> seen = []
        >>> f = Chunked(lambda z: (seen.append(len(z)), z.square())[1], rows=2)
        >>> f(torch.tensor([[1.0], [2.0], [3.0]])).squeeze(1), seen
        (tensor([1., 4., 9.]), [2, 1])
    """

    def __init__(self, decoder: Decoder, rows: int) -> None:
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
