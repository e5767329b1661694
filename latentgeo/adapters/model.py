"""What the package asks of a trained model: an encoder to latent points and a decoder from them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from latentgeo.geometry.decoder import Decoder, check_modes, modules_of

_ENCODED = 1024  # data encoded at a time
_ADAPTERS = {"scvi": "from_scvi", "diffusers": "from_autoencoder_kl"}  # by the package a model comes from


@dataclasses.dataclass(frozen=True, repr=False)
class LatentModel:
    """A trained model seen from its latent space.

    Attributes:
        encode: data (B, *event) -> latent points z, shape (B, d), the same ones at every call.
        decoder: latent points (B, d) -> data (B, *event), row by row.
        name: what tables and figures call it.
    """

    encode: Callable[[Tensor], Tensor]
    decoder: Decoder
    name: str = "model"

    def __repr__(self) -> str:
        """Name the model, not its layers."""
        return f"LatentModel({self.name!r})"

    def __post_init__(self) -> None:
        """Refuse what cannot be called."""
        for field in ("encode", "decoder"):
            if not callable(getattr(self, field)):
                raise TypeError(f"{field}: expected a callable, got {type(getattr(self, field)).__name__}")

    def codes(self, data: Tensor) -> Tensor:
        r"""Latent points (n, d) of data, checked, without gradients.

        Args:
            data: a tensor (n, \*event), which is encoded in batches, in the model's type and on its device where these
                can be found; anything else that the encoder takes goes to it as it is.

        Raises:
            TypeError: the encoder returns no tensor.
            ValueError: it cannot encode the data, its shape is not (n, d), values are not finite, or it answers
                differently when asked twice.
        """
        for part in (self.encode, self.decoder):  # before anything passes through either
            check_modes(self.name, part)
        if not isinstance(data, Tensor):
            return self._codes(data)
        like = parameter_of(self)
        if like is not None:
            data = data.to(like.device, like.dtype if data.is_floating_point() else data.dtype)
        return torch.cat([self._codes(part) for part in data.split(_ENCODED)])

    @torch.no_grad()
    def _codes(self, data: object) -> Tensor:
        z = self._encoded(data)
        if not isinstance(z, Tensor):
            remedy = "return the posterior mean alone"
            if isinstance(z, tuple):
                remedy += ": if that is its first part, write (lambda x, m=model: m.encode(x)[0], model.decode)"
            raise TypeError(
                f"{self.name}: expected encode to return a tensor of latent points (n, d), got {type(z).__name__}; "
                f"{remedy}"
            )
        if z.ndim != 2 or len(z) != len(data):
            raise ValueError(
                f"{self.name}: expected encode to return shape ({len(data)}, d), got {tuple(z.shape)}; "
                "flatten latent images with z.flatten(1)"
            )
        if not torch.isfinite(z).all():
            raise ValueError(f"{self.name}: expected finite latent points, got NaN or infinity from encode")
        head = data[: min(len(data), 8)]
        if not torch.allclose(self._encoded(head), self._encoded(head)):
            raise ValueError(
                f"{self.name}: encode answers differently when asked twice; return the posterior mean rather than "
                "a sample, and call .eval() on the model first"
            )
        return z

    def _encoded(self, data: object) -> object:
        try:
            return self.encode(data)
        except RuntimeError as error:
            if "memory" in str(error) or not isinstance(data, Tensor):
                raise
            remedy = "" if data.is_floating_point() else "; convert integers with data.float()"
            raise ValueError(
                f"{self.name}: could not encode data of shape {tuple(data.shape)} and type {data.dtype}: {error}. "
                f"Expected (n, *event) with the event, and of the type, that this model was trained on{remedy}"
            ) from error


def parameter_of(model: LatentModel) -> Tensor | None:
    """A floating-point parameter or buffer, which shows the model's type and device; None where none is found."""
    for part in (model.encode, model.decoder):
        for module in modules_of(part):
            for parameter in itertools.chain(module.parameters(), module.buffers()):
                if parameter.is_floating_point():
                    return parameter
    return None


def latent_model(model: object, name: str | None = None) -> LatentModel:
    """See a model from its latent space.

    Args:
        model: a :class:`LatentModel`; a pair ``(encode, decoder)`` of callables; or any object with the methods
            ``encode`` (the posterior mean) and ``decode`` (or ``decoder``), such as a :class:`latentgeo.paper.VAE`.
        name: what tables and figures call it; the class's name by default.

    Returns:
        The model. Nothing is written to it.

    Raises:
        TypeError: it is none of these.

    Example:
        >>> model = latent_model((lambda x: 0.5 * x, lambda z: 2.0 * z), "scaling")
        >>> model.codes(torch.ones(1, 2)), model.name
        (tensor([[0.5000, 0.5000]]), 'scaling')
    """
    if isinstance(model, LatentModel):
        return model if name is None else dataclasses.replace(model, name=name)
    if isinstance(model, tuple) and len(model) == 2 and all(callable(part) for part in model):
        return LatentModel(*model, name or "model")
    encode = getattr(model, "encode", None)
    decode = getattr(model, "decode", None) or getattr(model, "decoder", None)
    if callable(encode) and callable(decode):
        return LatentModel(encode, decode, name or type(model).__name__)
    package = type(model).__module__.partition(".")[0]
    remedy = "write LatentModel(encode=lambda x: …, decoder=lambda z: …)"
    if isinstance(model, Mapping | str | Path):  # its parameters, or where they are saved
        remedy = "build the model as for training, then model.load_state_dict(torch.load(…)) and model.eval()"
    elif package in _ADAPTERS:
        remedy = f"pass lg.{_ADAPTERS[package]}(model)"
    got = repr(model) if isinstance(model, str | Path) else type(model).__name__
    raise TypeError(
        "model: expected a LatentModel, a pair (encode, decoder), or an object with methods encode and decode, got "
        f"{got}; {remedy}"
    )
