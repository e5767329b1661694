r"""A trained model of scvi-tools, with the Fisher-Rao geometry of its likelihood.

SCVI, and models built like it, describe the count of gene g in a cell of library size :math:`\ell`, from batch s, by

.. math:: x_g \sim \mathrm{NB}\big(\mu_g, r_g\big), \quad \mu = \ell\, \rho(z, s), \quad
    \mathrm{Var}\, x_g = \mu_g + \mu_g^2 / r_g,

by a Poisson or a normal distribution of mean :math:`\mu_g`, or, by default, as zero with a probability
:math:`\pi_g(z, s)` and else so; PEAKVI describes whether a region is open, with probability :math:`\ell\, f_g\,
\rho_g(z, s)`. With all but z held fixed that is a likelihood for each z, which the model's own ``module.generative``
gives, and its Fisher-Rao metric is that of an ordinary decoder, :func:`latentgeo.fisher_rao`. How deeply a cell was
sequenced, and in which batch, is then no part of a distance.

Sources: Lopez et al., "Deep generative modeling for single-cell transcriptomics", Nature Methods 2018 (the model);
Gayoso et al., "A Python library for probabilistic analysis of single-cell omics data", Nature Biotechnology 2022 (the
library); Arvanitidis et al., "Pulling back information geometry", AISTATS 2022 (the geometry).
"""

from __future__ import annotations

import copy
import inspect
import math
import numbers
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse
import torch
from torch import Tensor, nn
from torch import distributions as dist
from torch.overrides import TorchFunctionMode

from latentgeo.adapters.model import LatentModel, is_anndata
from latentgeo.geometry.likelihood import fisher_rao, unvalidated
from latentgeo.identifiability.points import Misfit

if TYPE_CHECKING:
    from anndata import AnnData
    from scvi.data import AnnDataManager
    from scvi.model.base import BaseModelClass

_CELLS = 2048  # that are encoded at a time
# What scvi-tools calls fields of cells that are categories, and those that are not counts:
_CATEGORICAL = ("batch", "labels", "extra_categorical_covs", "panel", "sample", "ind_x")
_CONTINUOUS = ("extra_continuous_covs", "size_factor")
_CODES = ("z", "qz_m")  # codes that it generates from
_LIBRARY = {"library": math.log, "library_gene": float}  # library sizes, and how they are given to it
_DEPTH = "depth"  # what we call the factor of a cell's depth beside these


def from_scvi(
    model: BaseModelClass,
    *,
    library_size: float | None = None,
    batch: Hashable | None = None,
    covariates: Mapping[str, object] | None = None,
    ignore_zero_inflation: bool = False,
    dtype: torch.dtype = torch.float32,
    name: str | None = None,
) -> LatentModel:
    r"""See a trained model of scvi-tools from its latent space.

    It takes SCVI, SCANVI, LinearSCVI and PEAKVI, TOTALVI by its genes alone (not its proteins, whose background is
    drawn at random), and others whose ``module.generative`` gives a negative binomial, zero-inflated or not, a Poisson
    or a normal distribution as ``px``.

    The encoder gives posterior means, the same as ``model.get_latent_representation()``. It takes an AnnData set up
    like the model's, whose cells keep their own batches and covariates, or a tensor of counts (n, genes), whose cells
    count as from the given ones. The decoder's lengths are in standard deviations of the counts, over all genes. Both
    are copies in evaluation mode: nothing of the model is changed, and training it further does not change them.

    Of scvi's default likelihood, the zero-inflated negative binomial, the metric is that of the complete data, in which
    extra zeros are seen as such: :mod:`latentgeo.geometry.likelihood`. It is nowhere smaller than that of the counts.
    Against the negative binomial alone it weighs a gene by the share of its counts that are no extra zeros, and adds
    how that share changes; the two are equal where no zeros are added.

    scvi's networks have ReLU activations, with which lengths converge as N⁻¹ rather than N⁻² in the number of segments,
    which takes more time for fewer digits, and :func:`latentgeo.check_assumptions` finds the decoder not smooth. To
    train a smooth one: ``SCVI(adata, extra_decoder_kwargs={"activation_fn": torch.nn.Softplus})``.

    Args:
        model: trained, with latent distribution ``"normal"``, and a dispersion that does not depend on the cell.
        library_size: ℓ, at which cells are compared; with a size factor in place of library size, that factor; for
            PEAKVI the factor of a cell's depth, in (0, 1]. By default the median of the cells that the model was set up
            with.
        batch: name of the batch s at which cells are compared; by default that of most cells.
        covariates: values of further covariates at which cells are compared, by their names in ``.obs``, labels among
            them; by default a continuous one's median, and a categorical one's most frequent value.
        ignore_zero_inflation: whether to take the negative binomial part of a zero-inflated likelihood for the whole.
            Its distances are identified like others, but blind to differences in the share of extra zeros.
        dtype: of the copies, ``torch.float32`` as trained, or ``torch.float64`` for more digits.
        name: what tables and figures call it; the class's name by default.

    Returns:
        The model for :func:`latentgeo.agreement` and, by its ``decoder`` and ``encode``, everything else. Its
        ``decoder.distribution(z)`` are the likelihoods.

    Raises:
        TypeError: it is not a model of scvi-tools, or its module does not generate data from codes.
        ValueError: it is untrained, or was loaded without the counts of its cells, its likelihood has no isometric
            embedding (the message says what would), the batch or a covariate is unknown, or the library size is not
            positive; later, cells have other genes than its own. Models that are compared should be held at the
            same library size, batch and covariates: name them where models were set up with different cells.

    Example:
        >>> import scvi  # doctest: +SKIP
        >>> scvi.model.SCVI.setup_anndata(adata, layer="counts", batch_key="batch")  # doctest: +SKIP
        >>> model = scvi.model.SCVI(adata)  # doctest: +SKIP
        >>> model.train()  # doctest: +SKIP
        >>> cells = from_scvi(model)  # doctest: +SKIP
        >>> z = cells.encode(adata)  # doctest: +SKIP
        >>> lg.distance(cells.decoder, z[:5], z[5:10])  # doctest: +SKIP
    """
    module = getattr(model, "module", None)
    needed = ("inference", "generative", "_get_inference_input", "_get_generative_input")
    if not isinstance(module, nn.Module) or not all(callable(getattr(module, of, None)) for of in needed):
        raise TypeError(
            "model: expected a model of scvi-tools whose module generates data from codes, such as scvi.model.SCVI, "
            f"got {type(model).__name__}"
        )
    _check_supported(module)
    if not model.is_trained:
        raise ValueError("model: expected a trained model; call model.train() first")
    if model.adata_manager is None:
        raise ValueError(
            "model: expected one with the cells it was set up with, got none; load it with them, as in "
            "scvi.model.SCVI.load(folder, adata=adata)"
        )
    if getattr(model, "minified_data_type", None) is not None:
        raise ValueError("model: expected the counts of its cells, got minified ones; load it with the whole AnnData")
    held = {
        key: value.to(module.device, dtype if value.is_floating_point() else value.dtype)
        for key, value in _held(model, batch, covariates, library_size).items()
    }
    condition = _condition(model, held, library_size)
    network = copy.deepcopy(module).requires_grad_(False).to(dtype).eval()
    varying = getattr(module, "gene_likelihood", None) == "normal" and module.dispersion == "gene-cell"
    try:
        encoder = _Encoder(model, network, held, condition).eval()
        generator = _Generator(model, copy.deepcopy(network), held, library_size, ignore_zero_inflation).eval()
        decoder = generator if varying else fisher_rao(generator)
        origin = encoder(model.adata[:1])
        if not torch.equal(*(_mean(generator(origin)) for _ in range(2))):
            raise TypeError("what it generates is drawn at random")
        decoder(origin)
    except (KeyError, TypeError) as error:
        raise TypeError(
            f"model: expected one whose likelihood is known here, got {type(model).__name__} ({error}); write "
            "LatentModel(encode=lambda x: …, decoder=lambda z: …)"
        ) from error

    def likelihood(data: object) -> Misfit:
        return generator.log_likelihood(encoder.parts(data))

    return LatentModel(encoder, decoder.eval(), name or type(model).__name__, encoder.posterior_sampler, likelihood)


def _check_supported(module: nn.Module) -> None:
    """Refuse models whose codes or whose likelihood at fixed conditions have no known geometry."""
    codes, dispersion = getattr(module, "latent_distribution", "normal"), getattr(module, "dispersion", "gene")
    if codes != "normal":
        raise ValueError(
            f"model: expected latent_distribution 'normal', got {codes!r}; train with latent_distribution='normal', as "
            "other codes lie on a simplex and fill no d dimensions"
        )
    if dispersion == "gene-cell" and module.gene_likelihood in ("nb", "zinb"):
        raise ValueError(
            "model: expected a dispersion that does not depend on the cell, got 'gene-cell'; train with "
            "dispersion='gene', as the negative binomial's Fisher information has no closed form in its dispersion"
        )


def _state(model: BaseModelClass, key: str) -> Mapping[str, object]:
    """What scvi-tools has noted of a field of the cells."""
    return model.registry_["field_registries"].get(key, {}).get("state_registry", {})


def _place(name: str, value: object, known: Iterable[object]) -> int:
    known = list(known)
    if value not in known:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, known))}, got {value!r}")
    return known.index(value)


def _held(
    model: BaseModelClass,
    batch: Hashable | None,
    covariates: Mapping[str, object] | None,
    library_size: float | None,
) -> dict[str, Tensor]:
    """Fields of one cell, (1, k) each: those asked for, else the most frequent categories, medians and mean counts."""
    fields = {key: _field(model.adata_manager, key) for key in model.adata_manager.data_registry}
    held = {}
    for key, values in fields.items():
        if values is None:
            continue
        if key in _CATEGORICAL:
            most = [np.bincount(column).argmax() for column in np.asarray(values).astype(int).T]
            held[key] = torch.tensor(np.array(most)[None])
        else:
            middle = np.median(values, 0) if key in _CONTINUOUS else np.asarray(values.mean(0))
            held[key] = torch.tensor(np.asarray(middle, dtype=np.float64).reshape(1, -1))
    if batch is not None:
        held["batch"][:] = _place("batch", batch, _state(model, "batch")["categorical_mapping"])
    _choose(model, held, dict(covariates or {}))
    size = _checked_size(library_size, float(np.median(np.asarray(fields["X"].sum(1)))))
    if getattr(model.module, "use_size_factor_key", False):
        if library_size is not None:
            held["size_factor"][:] = size
    elif not hasattr(model.module, "d_encoder"):
        held["X"] *= size / held["X"].sum()
    return held


def _choose(model: BaseModelClass, held: dict[str, Tensor], covariates: dict[str, object]) -> None:
    """Set the covariates that are named."""
    categorical = _state(model, "extra_categorical_covs").get("mappings", {})
    continuous = list(_state(model, "extra_continuous_covs").get("columns", []))
    labels = _state(model, "labels")
    for name, value in covariates.items():
        if name in categorical:
            place = list(categorical).index(name)
            held["extra_categorical_covs"][0, place] = _place(f"covariates[{name!r}]", value, categorical[name])
        elif name in continuous:
            if not isinstance(value, numbers.Real) or not math.isfinite(value):
                raise ValueError(f"covariates[{name!r}]: expected a finite number, got {value!r}")
            held["extra_continuous_covs"][0, continuous.index(name)] = float(value)
        elif name in _key_of(labels):
            held["labels"][:] = _place(f"covariates[{name!r}]", value, labels["categorical_mapping"])
        else:
            known = [*categorical, *continuous, *_key_of(labels)]
            expected = f"names among {known}, those of the model's" if known else "none, as this model has none"
            raise ValueError(f"covariates: expected {expected}, got {name!r}")


def _key_of(field: Mapping[str, object]) -> list[str]:
    """The column of the cells that a field comes from; none where scvi-tools has made it up itself."""
    key = field.get("original_key")
    return [] if key is None or key.startswith("_scvi") else [key]


def _condition(model: BaseModelClass, held: Mapping[str, Tensor], library_size: float | None) -> dict[str, object]:
    """What cells are compared at, by the names that :func:`from_scvi` takes it by."""
    found = {"library_size": float(f"{held['X'].sum().item():.6g}")}
    if getattr(model.module, "use_size_factor_key", False):
        found["library_size"] = held["size_factor"].item()
    elif hasattr(model.module, "d_encoder"):  # each training has its own opinion of a cell's depth
        found = {} if library_size is None else {"library_size": float(library_size)}
    batch, labels = _state(model, "batch"), _state(model, "labels")
    if _key_of(batch):
        found["batch"] = batch["categorical_mapping"][held["batch"].item()]
    for key in _key_of(labels):
        found[key] = labels["categorical_mapping"][held["labels"].item()]
    categorical = _state(model, "extra_categorical_covs").get("mappings", {})
    for place, (name, categories) in enumerate(categorical.items()):
        found[name] = categories[int(held["extra_categorical_covs"][0, place])]
    for place, name in enumerate(_state(model, "extra_continuous_covs").get("columns", [])):
        found[name] = held["extra_continuous_covs"][0, place].item()
    return found


def _checked_size(given: float | None, default: float, most: float = math.inf) -> float:
    size = default if given is None else given
    if isinstance(size, bool) or not isinstance(size, numbers.Real) or not (0 < size <= most and math.isfinite(size)):
        of = "finite number" if most == math.inf else f"number of at most {most:g}"
        raise ValueError(f"library_size: expected a positive {of}, got {size!r}")
    return float(size)


def _field(manager: AnnDataManager, key: str) -> np.ndarray | scipy.sparse.spmatrix | None:
    """A field of the cells, shape (n, k); None for what is none."""
    values = manager.get_from_registry(key)
    if isinstance(values, str):
        return None
    return values if scipy.sparse.issparse(values) else np.asarray(values).reshape(len(values), -1)


class _AsTrained(TorchFunctionMode):
    """What scvi-tools computes, in our type and without chance: where it draws from a normal, the mean."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(
        self, func: Callable[..., object], types: object, args: tuple = (), kwargs: dict[str, object] | None = None
    ) -> object:
        if func is Tensor.normal_:
            return args[0].zero_()
        if func is Tensor.float:
            return args[0].to(self.dtype)
        return func(*args, **(kwargs or {}))


def _inferred(module: nn.Module, tensors: dict[str, Tensor]) -> dict[str, object]:
    """What the encoders of a module say of cells."""
    with _AsTrained(tensors["X"].dtype), unvalidated():
        return module.inference(**module._get_inference_input(tensors))


def _mean(p: object) -> Tensor:
    if not isinstance(p, dist.Distribution):
        raise TypeError(f"its module does not generate a distribution 'px' but {type(p).__name__}")
    return p.mean


def _manager_of(model: BaseModelClass, data: AnnData) -> AnnDataManager:
    """The fields of the model's cells, or of others, which are copied, as scvi-tools writes into what it is given."""
    if data is model.adata:
        model.adata_manager.validate()
        return model.adata_manager
    known, given = list(model.adata.var_names), list(data.var_names)
    if given != known:
        other = next((name for name in given if name not in set(known)), None)
        remedy = "take data[:, model.adata.var_names]"
        if not set(known) <= set(given):
            remedy = "cells need all of them; if they are the same by other names, rename data.var_names"
        raise ValueError(
            f"data: expected the {len(known)} genes that {type(model).__name__} was trained on, in their order, got "
            f"{len(given)}{'' if other is None else f', with others such as {other!r}'}; {remedy}"
        )
    state = np.random.get_state()
    try:  # it looks whether counts are integers in cells that it draws
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Category .* fewer than 3 cells")  # which matters to training alone
            return model.adata_manager.transfer_fields(data.copy())
    finally:
        np.random.set_state(state)


def _parts_of(manager: AnnDataManager, like: Tensor) -> Iterator[dict[str, Tensor]]:
    """Fields of some cells at a time, (n, k) each, made dense."""
    fields = {key: _field(manager, key) for key in manager.data_registry}
    fields = {key: values for key, values in fields.items() if values is not None}
    for first in range(0, fields["X"].shape[0], _CELLS):
        part = {key: values[first : first + _CELLS] for key, values in fields.items()}
        dense = {key: values.toarray() if scipy.sparse.issparse(values) else values for key, values in part.items()}
        yield {
            key: torch.as_tensor(np.array(values)).to(like.device, torch.long if key in _CATEGORICAL else like.dtype)
            for key, values in dense.items()
        }


class _Encoder(nn.Module):
    """Posterior means of an AnnData's cells, or of counts."""

    _apart = ("_model",)  # which evaluates itself
    takes_anndata = True

    def __init__(
        self, model: BaseModelClass, module: nn.Module, held: dict[str, Tensor], condition: Mapping[str, object]
    ) -> None:
        super().__init__()
        self.condition = condition
        # Not as attributes of the module, which would make the model's parameters this one's.
        self._model, self.module = (model,), module
        self._fields = list(held)
        for key, value in held.items():
            self.register_buffer(f"held_{key}", value.clone(), persistent=False)

    @torch.no_grad()
    def forward(self, data: object) -> Tensor:
        """An AnnData of n cells, or counts (n, genes) -> codes (n, d)."""
        return self.posterior(data).loc

    def parts(self, data: object) -> Iterator[dict[str, Tensor]]:
        """Fields of some cells at a time as scvi-tools names them, (n, k) each."""
        if isinstance(data, Tensor):
            found = self._of_counts(data)
            for first in range(0, max(len(data), 1), _CELLS):
                yield {key: value[first : first + _CELLS] for key, value in found.items()}
        elif is_anndata(data):
            yield from _parts_of(_manager_of(self._model[0], data), self.held_X)
        else:
            raise TypeError(
                f"expected an AnnData set up like the model's, or a tensor of counts, got {type(data).__name__}"
            )

    def _of_counts(self, x: Tensor) -> dict[str, Tensor]:
        genes = self.held_X.shape[1]
        if "proteins" in self._fields:
            raise TypeError("expected an AnnData or MuData, got a tensor: this model encodes proteins beside counts")
        if x.ndim != 2 or x.shape[1] != genes:
            raise ValueError(f"expected counts of shape (n, {genes}), or an AnnData, got shape {tuple(x.shape)}")
        if (x < 0).any():
            raise ValueError(
                f"expected counts, got a value of {x.min():.3g}; are these log-normalised or scaled values? "
                "Where an AnnData keeps counts in a layer, name it, as in layer='counts'"
            )
        held = {key: getattr(self, f"held_{key}") for key in self._fields}
        return {key: value.expand(len(x), -1) for key, value in held.items()} | {"X": x.to(held["X"])}

    @torch.no_grad()
    def posterior(self, data: object) -> dist.Normal:
        """Of cells: normal distributions (n, d)."""
        found = [_inferred(self.module, part).get("qz") for part in self.parts(data)]
        if not isinstance(found[0], dist.Normal):
            raise TypeError("its encoder gives no normal posterior 'qz'")
        return dist.Normal(torch.cat([q.loc for q in found]), torch.cat([q.scale for q in found]), validate_args=False)

    def posterior_sampler(self, data: object) -> Callable[[Tensor], Tensor]:
        """What turns standard normal draws (n, d) into draws from the posteriors of cells."""
        posterior = self.posterior(data)
        return lambda noise: posterior.loc + posterior.scale * noise


class _Nothing(nn.Module):
    """In place of logits of extra zeros that a likelihood does not use, which would take half of a decoder's time."""

    def forward(self, x: Tensor, *_: Tensor) -> Tensor:
        """(B, d) -> (B, 1)."""
        return x.new_zeros(len(x), 1)


class _Generator(nn.Module):
    """Distributions of a cell's counts at held conditions: (B, d) -> distributions (B, genes)."""

    def __init__(
        self,
        model: BaseModelClass,
        module: nn.Module,
        held: dict[str, Tensor],
        library_size: float | None,
        ignore_zero_inflation: bool,
    ) -> None:
        super().__init__()
        self.module, self._ignores = module, ignore_zero_inflation
        self._codes = [name for name in _CODES if name in inspect.signature(module.generative).parameters]
        if ignore_zero_inflation or getattr(self.module, "gene_likelihood", "zinb") != "zinb":
            for name in ("px_dropout_decoder", "px_dropout_decoder_gene"):
                if hasattr(getattr(self.module, "decoder", None), name):
                    setattr(self.module.decoder, name, _Nothing())
        inputs = self._inputs(held)
        if not getattr(self.module, "use_observed_lib_size", True):
            for name, given in _LIBRARY.items():
                if name in inputs:
                    inputs[name] = torch.full_like(inputs[name], given(held["X"].sum().item()))
        if _DEPTH in inputs:
            depths = [self._inputs(part)[_DEPTH] for part in _parts_of(model.adata_manager, held["X"])]
            size = _checked_size(library_size, torch.cat(depths).median().item(), most=1.0)
            inputs[_DEPTH] = torch.full_like(inputs[_DEPTH], size)
        self._names = list(inputs)
        for name, value in inputs.items():
            self.register_buffer(f"held_{name}", value, persistent=False)

    @torch.no_grad()
    def _inputs(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is generated from beside codes, of cells (n, k) each; for PEAKVI also each cell's depth."""
        found = _inferred(self.module, tensors)
        inputs = self.module._get_generative_input(tensors, found)
        inputs = {name: value for name, value in inputs.items() if value is not None and name not in _CODES}
        return inputs | ({_DEPTH: found["d"]} if isinstance(found.get("d"), Tensor) else {})

    def forward(self, z: Tensor, inputs: dict[str, Tensor] | None = None) -> dist.Distribution:
        """Likelihoods of codes (B, d) at the held conditions, or at those of B cells."""
        if inputs is None:
            held = {name: getattr(self, f"held_{name}") for name in self._names}
            inputs = {name: value.expand(len(z), *value.shape[1:]) for name, value in held.items()}
        given = {name: value for name, value in inputs.items() if name != _DEPTH}
        with _AsTrained(z.dtype), unvalidated():
            found = self.module.generative(**dict.fromkeys(self._codes, z), **given)
            if "bernoulli_params" in found:
                raise TypeError("a gene of AUTOZI is zero-inflated or not by chance, which 'px' does not say")
            return self._distribution(found.get("px", found.get("px_")), inputs.get(_DEPTH, 1.0))

    def _distribution(self, px: object, depth: Tensor | float) -> object:
        """The likelihood as a distribution."""
        if isinstance(px, Mapping):  # TOTALVI's parameters of genes
            from scvi.distributions import ZeroInflatedNegativeBinomial

            px = ZeroInflatedNegativeBinomial(mu=px["rate"], theta=px["r"], zi_logits=px["dropout"])
            if self.module.gene_likelihood != "zinb":
                return _without_zeros(px)
        if isinstance(px, Tensor) and hasattr(self.module, "region_factors"):  # PEAKVI's probabilities
            factors = self.module.region_factors
            return dist.Bernoulli(probs=px * depth * (1.0 if factors is None else factors.sigmoid()))
        return _without_zeros(px) if self._ignores and hasattr(px, "zi_logits") else px

    def log_likelihood(self, parts: Iterable[dict[str, Tensor]]) -> Misfit:
        """Log p(x | z) of cells, each at its own library size and conditions."""
        found = [(part["X"], self._inputs(part)) for part in parts]
        x, inputs = torch.cat([counts for counts, _ in found]), [own for _, own in found]
        own = {name: torch.cat([part[name] for part in inputs]) for name in inputs[0]}

        def log_likelihood(z: Tensor, rows: Tensor) -> Tensor:
            p, counts = self(z, {name: value[rows] for name, value in own.items()}), x[rows]
            counts = (counts > 0).to(z) if isinstance(p, dist.Bernoulli) else counts
            return p.log_prob(counts).sum(1)

        return log_likelihood


def _without_zeros(p: dist.Distribution) -> dist.Distribution:
    from scvi.distributions import NegativeBinomial

    return NegativeBinomial(mu=p.mu, theta=p.theta)
