"""What the package asks of a trained model: an encoder to latent points and a decoder from them."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from latentgeo.geometry.arrays import takes_arrays
from latentgeo.geometry.decoder import DecoderLike, as_decoder, rows_at_once
from latentgeo.geometry.door import taken_from
from latentgeo.geometry.likelihood import StatisticalDecoder
from latentgeo.geometry.reach import Untouched, check_modes, parameter_in
from latentgeo.identifiability.points import Misfit, Projection, most_likely, nearest, project
from latentgeo.warn import warn

POINTS = ("nearest", "posterior", "mean")
_DRAWS = 64  # from a posterior, half of them the mirror images of the others
_SAME = 64.0  # times the root of the rounding, by which a code may change with the batch that it is encoded in
_MEANS = ("latent_dist", "embedding", "loc", "mean", "mu", "latents", "z")  # what codes are called elsewhere
_ENCODED = 1024  # data encoded at a time
_ADAPTERS = {"scvi": "from_scvi", "diffusers": "from_autoencoder_kl"}  # by the package a model comes from


def as_images(x: Tensor) -> Tensor:
    """Images in [0, 1]: bytes (uint8, 0 to 255) as float32, anything else as it is.

    Example:
        >>> as_images(torch.tensor([0, 255], dtype=torch.uint8)), as_images(torch.tensor([0.5]))
        (tensor([0., 1.]), tensor([0.5000]))
    """
    return x.float() / 255.0 if x.dtype == torch.uint8 else x


class Points(NamedTuple):
    """Latent points that stand for data.

    Attributes:
        codes: shape (n, d).
        converged: whether they were found; shape (n,).
        unique: whether a second search found the same points of the image; shape (n,).
        apart: where it found others that are about as near, how far they may be from these on the image, in data units;
            0 elsewhere; shape (n,).
    """

    codes: Tensor
    converged: Tensor
    unique: Tensor
    apart: Tensor

    def __repr__(self) -> str:
        """Say how many there are, how many were found, and how many have others as near."""
        counts = (f"{int(of.sum())} {name}" for name, of in (("converged", self.converged), ("unique", self.unique)))
        found = f"{', '.join(counts)}, {int((self.apart > 0).sum())} with others about as near"
        return f"Points({len(self.codes)} codes, d = {self.codes.shape[1]}: {found})"


class Conditioned:
    """A function of rows and a condition, at one condition: rows (B, ...) -> function(rows, the condition B times).

    Args:
        function: an encoder, a decoder or the like.
        condition: see :func:`latent_model`.
    """

    def __init__(self, function: Callable, condition: object) -> None:
        self.function, self.condition = function, condition

    def __call__(self, rows: object) -> object:
        """Call the function with these rows, and as many of the condition."""
        if isinstance(self.condition, Mapping):
            return self.function(rows, **{name: self._repeated(c, rows) for name, c in self.condition.items()})
        return self.function(rows, self._repeated(self.condition, rows))

    def holds(self, condition: object) -> bool:
        """Whether a condition is this one."""
        mine, other = map(_by_name, (self.condition, condition))
        return mine.keys() == other.keys() and _agree(mine, other)

    @staticmethod
    def _repeated(condition: object, rows: object) -> object:
        if not isinstance(condition, Tensor | np.ndarray | numbers.Number | list):
            return condition
        c = torch.as_tensor(condition)
        if isinstance(rows, Tensor):
            c = c.to(rows.device, rows.dtype if c.is_floating_point() and rows.is_floating_point() else c.dtype)
        return c.expand(len(rows), *c.shape)


def _by_name(condition: object) -> Mapping[str, object]:
    return condition if isinstance(condition, Mapping) else {"": condition}


def _agree(first: Mapping[str, object], second: Mapping[str, object]) -> bool:
    """Whether two conditions are the same wherever both say something."""

    def plain(value: object) -> np.ndarray:
        return np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)

    return all(np.array_equal(plain(first[k]), plain(second[k])) for k in first if k in second)


@dataclasses.dataclass(frozen=True, repr=False)
class LatentModel:
    r"""A trained model seen from its latent space.

    Attributes:
        encode: data (B, \*event) -> latent points z, shape (B, d), the same ones at every call; of a variational
            autoencoder the posterior means. With an attribute ``takes_anndata`` that is true it is given AnnData whole,
            else a tensor of what they hold.
        decoder: latent points (B, d) -> data (B, \*event), row by row.
        name: what tables and figures call it.
        posterior_sampler: data (n, \*event) -> a function from standard normal draws ε, shape (n, d), to draws from the
            posterior, such as :math:`z = \mu(x) + \sigma(x)\, \varepsilon`; None where that is not known.
        code_likelihood: data (n, \*event) -> a function from latent points (A, d) and the numbers (A,) of their data to
            log p(x | z), shape (A,), in nats; None for that of the decoder: Gaussian with one variance, or of the
            distributions that it returns.
    """

    encode: Callable[[Tensor], Tensor]
    decoder: DecoderLike
    name: str = "model"
    posterior_sampler: Callable[[Tensor], Callable[[Tensor], Tensor]] | None = None
    code_likelihood: Callable[[Tensor], Misfit] | None = None

    def __repr__(self) -> str:
        """Name the model and the condition that it is held at, not its layers."""
        condition = getattr(self.encode, "condition", None)
        held = f", condition={condition}" if isinstance(condition, Mapping | numbers.Number | str) else ""
        return f"LatentModel({self.name!r}{held})"

    def __post_init__(self) -> None:
        """Refuse what cannot be called."""
        for field in ("encode", "decoder"):
            if not callable(getattr(self, field)):
                raise TypeError(f"{field}: expected a callable, got {type(getattr(self, field)).__name__}")
        held = [part for part in (self.encode, self.decoder) if isinstance(part, Conditioned)]
        if held and not (len(held) == 2 and held[0].holds(held[1].condition)):
            given = [
                "none" if not isinstance(part, Conditioned) else part.condition for part in (self.encode, self.decoder)
            ]
            raise ValueError(
                f"{self.name}: expected encoder and decoder at the same condition, got {given[0]} and {given[1]}; a "
                "code belongs to the surface of one condition"
            )

    @takes_arrays("data")
    def codes(self, data: Tensor) -> Tensor:
        r"""Latent points (n, d) of data, checked, without gradients.

        Args:
            data: a tensor, array or table (n, \*event), which is encoded in batches, in the model's type and on its
                device where these can be found; anything else that the encoder takes goes to it as it is.

        Raises:
            TypeError: the encoder returns no tensor.
            ValueError: it cannot encode the data, its shape is not (n, d), values are not finite, it answers
                differently when asked twice or when a datum comes with others, or it changes the model's buffers.
        """
        # Before anything passes through either.
        parts = (self.encode, self.decoder, self.posterior_sampler, self.code_likelihood)
        modules = [module for part in parts for module in check_modes(self.name, part)]
        with torch.inference_mode(False), torch.no_grad(), Untouched(self.name, modules):
            if not isinstance(data, Tensor):
                return self._codes(data)
            if data.ndim < 2:
                raise ValueError(f"{self.name}: expected data of shape (n, *event), got {tuple(data.shape)}")
            if data.is_floating_point() and not torch.isfinite(data).all():
                raise ValueError(f"{self.name}: expected finite data, got NaN or infinity; drop those rows first")
            data = self._moved(data)
            return torch.cat([self._codes(part) for part in data.split(_ENCODED)])

    @takes_arrays("data", "others")
    def points(self, data: Tensor, points: str = "nearest", others: Tensor | None = None) -> Points:
        r"""Latent points (n, d) that stand for data.

        Args:
            data: as for :meth:`codes`.
            points: ``"nearest"`` for the points of the image nearest to the data, or of greatest likelihood,
                :func:`latentgeo.project`; ``"posterior"`` for those nearest to the posterior means of the image,
                :math:`\mathbb{E}[f(z) \mid x]`, from 64 draws; or ``"mean"`` for the codes of the encoder, as in the
                paper, which other latent coordinates would place elsewhere.
            others: codes of other data, see :func:`latentgeo.project`.

        Raises:
            ValueError: there is no such choice, the decoder does not give what the data are, or the model's posterior
                is not known; and see :meth:`codes`.
        """
        if points not in POINTS:
            raise ValueError(f"points: expected one of {', '.join(POINTS)}, got {points!r}")
        codes = self.codes(data)
        everything = torch.ones(len(codes), dtype=torch.bool, device=codes.device)
        if points == "mean":
            return Points(codes, everything, everything, torch.zeros_like(codes[:, 0]))
        if points == "posterior":
            found = self._nearest_to_posterior(data, codes, codes if others is None else others)
        elif self.code_likelihood is not None:
            f, log_likelihood = as_decoder(self.decoder, codes), self.code_likelihood(self._moved(data))
            values = math.prod(data.shape[1:])
            found = most_likely(f, log_likelihood, values, codes, codes if others is None else others)
        else:
            found = self._projected(data, codes, others)
        return Points(found.codes, found.converged, found.unique, found.apart)

    def _projected(self, data: object, codes: Tensor, others: Tensor | None) -> Projection:
        if not isinstance(data, Tensor):
            raise TypeError(
                f"{self.name}: expected a tensor of data to look for the nearest points of the image to, got "
                f"{type(data).__name__}; give the model a code_likelihood, or choose points='mean'"
            )
        x = as_images(data).to(codes.device)
        try:
            return project(self.decoder, x.to(codes.dtype), codes, others)
        except ValueError as error:
            unfit = "as the decoder gives" in str(error) or "as the likelihood's" in str(error)
            remedy = (
                ". The decoder does not give data as the encoder takes them; choose points='mean' to measure between "
                "the encoder's codes"
            )
            raise ValueError(f"{self.name}: {error}{remedy if unfit else ''}") from error

    @torch.no_grad()
    def _nearest_to_posterior(self, data: object, codes: Tensor, others: Tensor) -> Projection:
        f = as_decoder(self.decoder, codes)
        if self.posterior_sampler is None or isinstance(f, StatisticalDecoder):
            lacks = "no posterior_sampler" if self.posterior_sampler is None else "one that returns distributions"
            raise ValueError(
                f"{self.name}: expected a posterior to draw from and a decoder that returns data, got {lacks}; give "
                "the model one, LatentModel(…, posterior_sampler=lambda x: lambda noise: …), or choose points='nearest'"
            )
        draw = self.posterior_sampler(self._moved(data))
        size, random = (_DRAWS // 2, codes.shape[1]), torch.Generator().manual_seed(0)
        noise = torch.randn(size, generator=random, dtype=torch.float32, device="cpu").to(codes)
        draws = torch.stack([draw(e.expand_as(codes)) for e in torch.cat([noise, -noise])])
        rows = rows_at_once(f, codes)
        means = [sum(f(z) for z in part.unbind()) / _DRAWS for part in draws.split(rows, dim=1)]
        return nearest(f, torch.cat(means), codes, others)

    def _moved(self, data: object) -> object:
        """Data on the model's device and in its type."""
        like = parameter_of(self)
        if like is None or not isinstance(data, Tensor):
            return data
        return data.to(like.device, like.dtype if data.is_floating_point() else data.dtype)

    @torch.no_grad()
    def _codes(self, data: object) -> Tensor:
        z = self._encoded(data)
        if isinstance(z, np.ndarray):
            raise TypeError(
                f"{self.name}: expected encode to return a tensor of latent points (n, d), got an array; write "
                "torch.as_tensor(…)"
            )
        if not isinstance(z, Tensor):
            remedy = "return the posterior mean alone"
            if isinstance(z, tuple) and not hasattr(z, "_fields"):
                remedy += ": if that is its first part, write (lambda x, m=model: m.encode(x)[0], model.decode)"
            elif (taken := taken_from(z, "lambda x, m=model: m.encode(x)", _MEANS)) is not None:
                remedy += f": {taken}".replace(".latent_dist (", ".latent_dist.mean.flatten(1) (")
            raise TypeError(
                f"{self.name}: expected encode to return a tensor of latent points (n, d), got {type(z).__name__}; "
                f"{remedy}"
            )
        if z.ndim != 2 or len(z) != len(data) or z.shape[1] == 0:
            raise ValueError(
                f"{self.name}: expected encode to return shape ({len(data)}, d), got {tuple(z.shape)}; "
                "flatten latent images with z.flatten(1)"
            )
        if not z.is_floating_point():
            raise TypeError(
                f"{self.name}: expected encode to return floating-point latent points, got {z.dtype}; convert with "
                "data.float() first"
            )
        if not torch.isfinite(z).all():
            raise ValueError(f"{self.name}: expected finite latent points, got NaN or infinity from encode")
        head = data[: min(len(data), 8)]
        again = self._encoded(head)
        if not torch.allclose(self._encoded(head), again):
            raise ValueError(
                f"{self.name}: encode answers differently when asked twice; return the posterior mean rather than "
                "a sample, and call .eval() on the model first"
            )
        if isinstance(data, Tensor) and len(data) > 1:
            last = self._encoded(data[-1:])[0]
            tolerance = _SAME * torch.finfo(z.dtype).eps ** 0.5 * max(z.abs().amax().item(), 1.0)
            if (last - z[-1]).abs().amax() > tolerance or (again[0] - z[0]).abs().amax() > tolerance:
                raise ValueError(
                    f"{self.name}: the code of a datum depends on the data that are encoded with it; let encode act on "
                    "each row by itself, without statistics over the batch axis"
                )
        return z

    def _encoded(self, data: object) -> object:
        try:
            return self.encode(data.clone() if isinstance(data, Tensor) else data)  # it may work in place
        except TypeError as error:
            if "required positional argument" not in str(error):
                raise
            raise TypeError(
                f"{self.name}: expected encode to take data alone, got one that takes more ({error}); hold a label, "
                "batch or time fixed: lg.latent_model(model, condition=c)"
            ) from error
        except (RuntimeError, ValueError) as error:
            if "memory" in str(error) or not isinstance(data, Tensor) or takes_anndata(self):
                raise
            remedy = "" if data.is_floating_point() else "; convert integers with data.float()"
            raise ValueError(
                f"{self.name}: could not encode data of shape {tuple(data.shape)} and type {data.dtype}: {error}. "
                f"Expected (n, *event) with the event, and of the type, that this model was trained on{remedy}"
            ) from error


def takes_anndata(model: LatentModel) -> bool:
    """Whether its encoder wants cells as AnnData, which say more than counts: an attribute of the encoder says so."""
    return bool(getattr(model.encode, "takes_anndata", False))


def is_anndata(data: object) -> bool:
    """Whether data are cells as AnnData or MuData."""
    return all(hasattr(data, of) for of in ("obs", "obsm", "uns", "var_names"))


def labels_of(data: object, labels: object) -> object:
    """Labels of data, or the column of an AnnData's ``.obs`` that they name."""
    if not isinstance(labels, str):
        return labels
    columns = list(data.obs) if is_anndata(data) else []
    if labels not in columns:
        expected = f"one of {columns} in .obs, or a label for each cell" if columns else "a label for each datum"
        raise ValueError(f"labels: expected {expected}, got {labels!r}")
    return data.obs[labels]


def warn_of_conditions(models: Sequence[LatentModel]) -> None:
    """Say so where models are held at different conditions, of which each has a surface of its own."""
    held = [(model.name, getattr(model.encode, "condition", None)) for model in models]
    held = [(name, condition) for name, condition in held if condition is not None]
    for name, condition in held[1:]:
        if not _agree(_by_name(held[0][1]), _by_name(condition)):
            warn(
                f"{held[0][0]!r} is held at {held[0][1]} and {name!r} at {condition}, along whose surfaces distances "
                "differ though the models agree. To hold them at the same one, say it where they are made: "
                "latent_model(model, condition=…), from_scvi(model, library_size=…, batch=…, covariates=…)",
                UserWarning,
            )
            return


def parameter_of(model: LatentModel) -> Tensor | None:
    """A floating-point parameter or buffer, which shows the model's type and device; None where none is found."""
    return parameter_in(model.encode, model.decoder)


def latent_model(model: object, name: str | None = None, *, condition: object = None) -> LatentModel:
    r"""See a model from its latent space, a conditional one at one condition.

    A decoder f(z, c) of latent points and a label, batch or time c makes a surface for each c. Held at one, it is a
    decoder like any other, :math:`z \mapsto f(z, c)`, whose distances are along the surface of that c; they are
    identified where c is observed, that is given to all models alike. Data that belong to another c are encoded as if
    they belonged to this one, and their nearest points are those of its surface; between surfaces there is no distance.

    Args:
        model: a :class:`LatentModel`; a pair ``(encode, decoder)`` of callables; or any object with the methods
            ``encode`` (the posterior mean) and ``decode`` (or ``decoder``) and perhaps ``posterior_sampler`` and
            ``code_likelihood``, such as a :class:`latentgeo.paper.VAE`.
        name: what tables and figures call it; the class's name by default.
        condition: c of one datum, for models whose ``encode(x, c)`` and ``decode(z, c)`` both take one: a number, or a
            tensor or array of shape (\*c), which goes to both as (B, \*c) beside B rows; a mapping of such by keywords;
            or anything else, as it is. None for models that take no condition. An encoder without one is written as
            ``lambda x, c: encode(x)``.

    Returns:
        The model. Nothing is written to it.

    Raises:
        TypeError: it is none of these.
        ValueError: it is held at another condition already.

    Example:
        >>> model = latent_model((lambda x: 0.5 * x, lambda z: 2.0 * z), "scaling")
        >>> model.codes(torch.ones(1, 2)), model.name
        (tensor([[0.5000, 0.5000]]), 'scaling')

        Points on a circle of radius 2, of a family of circles:

        >>> angle = lambda x, r: x[:, 1:].atan2(x[:, :1])
        >>> circle = lambda z, r: r[:, None] * torch.cat([z.cos(), z.sin()], 1)
        >>> at_two = latent_model((angle, circle), condition=2.0)
        >>> at_two.decoder(torch.zeros(1, 1))
        tensor([[2., 0.]])
    """
    if condition is not None:
        seen = latent_model(model, name)
        parts = {part: getattr(seen, part) for part in ("encode", "decoder", "posterior_sampler", "code_likelihood")}
        if isinstance(seen.encode, Conditioned) and not seen.encode.holds(condition):
            raise ValueError(
                f"condition: expected {seen.encode.condition}, at which this model is held already, got {condition}; "
                "take the model that it was made of"
            )
        held = {
            of: Conditioned(f, condition) for of, f in parts.items() if callable(f) and not isinstance(f, Conditioned)
        }
        return dataclasses.replace(seen, **held)
    if isinstance(model, LatentModel):
        return model if name is None else dataclasses.replace(model, name=name)
    if isinstance(model, tuple) and len(model) == 2 and all(callable(part) for part in model):
        return LatentModel(*model, name or "model")
    encode = getattr(model, "encode", None)
    decode = getattr(model, "decode", None) or getattr(model, "decoder", None)
    if callable(encode) and callable(decode):
        rest = (getattr(model, of, None) for of in ("posterior_sampler", "code_likelihood"))
        return LatentModel(encode, decode, name or type(model).__name__, *rest)
    package = type(model).__module__.partition(".")[0]
    remedy = "write LatentModel(encode=lambda x: …, decoder=lambda z: …)"
    if isinstance(model, Mapping | str | Path):  # its parameters, or where they are saved
        remedy = "build the model as for training, then model.load_state_dict(torch.load(…)) and model.eval()"
    elif isinstance(model, Sequence):
        remedy = "pass one model at a time"
    elif package in _ADAPTERS:
        remedy = f"pass lg.{_ADAPTERS[package]}(model)"
    elif callable(getattr(model, "encoder", None)) and callable(decode):
        remedy = (
            "pass (lambda x, m=model: m.encoder(x), lambda z, m=model: m.decoder(z)), with the code and the data taken "
            "out of what they return, such as m.encoder(x).embedding and m.decoder(z).reconstruction"
        )
    got = repr(model) if isinstance(model, str | Path) else type(model).__name__
    raise TypeError(
        "model: expected a LatentModel, a pair (encode, decoder), or an object with methods encode and decode, got "
        f"{got}; {remedy}"
    )
