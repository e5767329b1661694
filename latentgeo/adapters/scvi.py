r"""A trained SCVI model of single cells, with the Fisher-Rao geometry of its likelihood.

SCVI describes the count of gene g in a cell of library size :math:`\ell`, from batch s, by

.. math:: x_g \sim \mathrm{NB}\big(\mu_g, r_g\big), \quad \mu = \ell\, \rho(z, s), \quad
    \mathrm{Var}\, x_g = \mu_g + \mu_g^2 / r_g,

or by a Poisson distribution of mean :math:`\mu_g`. With library size and batch held fixed that is a likelihood for
each z, and the Fisher-Rao metric is Euclidean after :math:`2 \sqrt{r} \operatorname{asinh} \sqrt{\mu / r}` (Poisson:
:math:`2 \sqrt{\mu}`), :func:`latentgeo.fisher_rao`. How deeply a cell was sequenced, and in which batch, is then no
part of a distance.

Sources: Lopez et al., "Deep generative modeling for single-cell transcriptomics", Nature Methods 2018 (the model);
Arvanitidis et al., "Pulling back information geometry", AISTATS 2022 (the geometry).
"""

from __future__ import annotations

import copy
import math
import numbers
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse
import torch
from torch import Tensor, nn

from latentgeo.adapters.model import LatentModel
from latentgeo.geometry.likelihood import FisherRaoDecoder, fisher_rao
from latentgeo.identifiability.points import Misfit

if TYPE_CHECKING:
    from scvi.model import SCVI

_BATCH = 2048  # cells encoded at a time
_NEEDED = ("z_encoder", "decoder", "n_batch")
_SUPPORTED = {  # options of a model: what they may be, the first being the one to train with, and why nothing else
    "gene_likelihood": (("nb", "poisson", "zinb"), "as other likelihoods have no isometric embedding"),
    "latent_distribution": (("normal",), "as other codes lie on a simplex and fill no d dimensions"),
    "dispersion": (("gene", "gene-batch"), "as others vary at a fixed batch too, which leaves no isometric embedding"),
    "batch_representation": (("one-hot",), "as one batch is compared at"),
}


def from_scvi(
    model: SCVI,
    *,
    library_size: float | None = None,
    batch: Hashable | None = None,
    ignore_zero_inflation: bool = False,
    dtype: torch.dtype = torch.float32,
    name: str = "SCVI",
) -> LatentModel:
    r"""See a trained ``scvi.model.SCVI`` from its latent space.

    The encoder gives posterior means, the same as ``model.get_latent_representation()``. It takes a tensor of counts
    (n, genes), whose cells then count as from the given batch, or an AnnData set up like the model's, whose cells keep
    their own. The decoder's lengths are in standard deviations of the counts, over all genes. Both are copies in
    evaluation mode: nothing of the model is changed, and training it further does not change them.

    scvi's networks have ReLU activations. Lengths then converge as N⁻¹ rather than N⁻² in the number of segments, and
    :func:`latentgeo.check_assumptions` finds the decoder not smooth. Train a smooth one:

    ``SCVI(adata, gene_likelihood="nb", extra_decoder_kwargs={"activation_fn": torch.nn.Softplus})``

    Args:
        model: trained, with ``gene_likelihood`` ``"nb"`` or ``"poisson"``, ``dispersion`` ``"gene"`` or
            ``"gene-batch"``, latent distribution ``"normal"``, and no covariates but the batch.
        library_size: ℓ, at which cells are compared; with a size factor in place of library size, that factor. By
            default the median of the cells that the model was set up with.
        batch: name of the batch s at which cells are compared; by default that of most cells.
        ignore_zero_inflation: whether to take the negative binomial part of a ``"zinb"`` likelihood for the whole. Its
            distances are identified like others, but blind to differences in the share of extra zeros: they are not
            Fisher-Rao distances of the model, which have no closed form.
        dtype: of the copies, ``torch.float32`` as trained, or ``torch.float64`` for more digits.
        name: what tables and figures call it.

    Returns:
        The model for :func:`latentgeo.agreement` and, by its ``decoder`` and ``encode``, everything else.

    Raises:
        TypeError: it is not an SCVI model.
        ValueError: it is untrained, its likelihood has no isometric embedding (the message says what would), the batch
            is unknown, or the library size is not positive or, without cells, not given.

    Example:
        >>> import anndata, scvi  # doctest: +SKIP
        >>> scvi.model.SCVI.setup_anndata(adata, layer="counts")  # doctest: +SKIP
        >>> model = scvi.model.SCVI(adata, gene_likelihood="nb")  # doctest: +SKIP
        >>> model.train()  # doctest: +SKIP
        >>> cells = from_scvi(model)  # doctest: +SKIP
        >>> z = cells.encode(adata)  # doctest: +SKIP
        >>> lg.distance(cells.decoder, z[:5], z[5:10])  # doctest: +SKIP
    """
    module = getattr(model, "module", None)
    if not isinstance(module, nn.Module) or not all(hasattr(module, needed) for needed in (*_NEEDED, *_SUPPORTED)):
        raise TypeError(f"model: expected a scvi.model.SCVI, got {type(model).__name__}")
    _check_supported(model, ignore_zero_inflation)
    if not model.is_trained:
        raise ValueError("model: expected a trained model; call model.train() first")
    index, size = _batch_index(model, batch), _library_size(model, library_size)
    encoder = _Encoder(model, module, index).to(dtype).eval()
    log_mean = _LogMean(module, index, size).to(dtype).eval()
    if module.gene_likelihood == "poisson":
        decoder = fisher_rao(log_mean, "poisson", log=True).eval()
        return LatentModel(encoder, decoder, name, encoder.posterior_sampler, _likelihood(encoder, log_mean, decoder))
    log_r = module.px_r.detach()
    r = (log_r[:, index] if module.dispersion == "gene-batch" else log_r).to(dtype).exp()
    decoder = fisher_rao(log_mean, "negative_binomial", dispersion=r, log=True).eval()
    return LatentModel(encoder, decoder, name, encoder.posterior_sampler, _likelihood(encoder, log_mean, decoder))


def _likelihood(encoder: _Encoder, log_mean: _LogMean, decoder: FisherRaoDecoder) -> Callable[[object], Misfit]:
    """Log p(x | z) of cells, at their own library sizes; those of an AnnData in their own batches."""

    def of(data: object) -> Misfit:
        x, batch = encoder.cells(data)
        log_library = log_mean.log_library if log_mean.softplus else x.sum(1, keepdim=True).log()

        def log_likelihood(z: Tensor, rows: Tensor) -> Tensor:
            own = log_library if log_mean.softplus else log_library[rows]
            means = log_mean(z, batch[rows]) - log_mean.log_library + own
            return decoder.distribution_of(means).log_prob(x[rows]).sum(1)

        return log_likelihood

    return of


def _check_supported(model: SCVI, ignore_zero_inflation: bool) -> None:
    """Refuse models whose likelihood at a fixed batch has no known isometric embedding, or that need more than it."""
    module, stats = model.module, model.summary_stats
    for option, (known, reason) in _SUPPORTED.items():
        found = getattr(module, option)
        if found not in known and (option, module.gene_likelihood) != ("dispersion", "poisson"):
            raise ValueError(
                f"model: expected {option} {' or '.join(map(repr, known))}, got {found!r}; train with "
                f"{option}={known[0]!r}, {reason}"
            )
    if module.gene_likelihood == "zinb" and not ignore_zero_inflation:
        raise ValueError(
            "model: the zero-inflated negative binomial (scvi's default) has no isometric embedding; train with "
            "SCVI(adata, gene_likelihood='nb', extra_decoder_kwargs={'activation_fn': torch.nn.Softplus}), whose "
            "decoder is smooth too, or pass ignore_zero_inflation=True to measure its negative binomial part alone"
        )
    if any(stats.get(key, 0) for key in ("n_extra_continuous_covs", "n_extra_categorical_covs")):
        raise ValueError(
            "model: expected no covariates but the batch, got continuous or categorical ones, at unknown values of "
            "which distances would be measured; train without them, or merge categories into the batch"
        )


def _registered(model: SCVI, key: str) -> np.ndarray | None:
    """A field of the cells that the model was set up with, or None without cells or field."""
    manager = getattr(model, "adata_manager", None)
    if manager is None or key not in manager.data_registry:
        return None
    return manager.get_from_registry(key)


def _batch_index(model: SCVI, batch: Hashable | None) -> int:
    known = list(model.registry_["field_registries"]["batch"]["state_registry"]["categorical_mapping"])
    if batch is not None:
        if batch not in known:
            raise ValueError(f"batch: expected one of {', '.join(map(repr, known))}, got {batch!r}")
        return known.index(batch)
    cells = _registered(model, "batch")
    return 0 if cells is None else int(np.bincount(np.asarray(cells).ravel().astype(int)).argmax())


def _library_size(model: SCVI, given: float | None) -> float:
    if given is None:
        factor = model.module.use_size_factor_key
        values = _registered(model, "size_factor" if factor else "X")
        if values is None:
            raise ValueError("library_size: expected a number, as the model carries no cells to take a median of")
        given = float(np.median(np.asarray(values if factor else values.sum(1))))
    if not isinstance(given, numbers.Real) or not (given > 0 and math.isfinite(given)):
        raise ValueError(f"library_size: expected a positive finite number, got {given!r}")
    return float(given)


class _Encoder(nn.Module):
    """Posterior means of counts, or of an AnnData's cells."""

    _apart = ("_model",)  # which evaluates itself

    def __init__(self, model: SCVI, module: nn.Module, index: int) -> None:
        super().__init__()
        # Not as attributes of the module, which would make the model's parameters this one's.
        self._model = (model,)
        self.network = copy.deepcopy(module.z_encoder)
        self.log_variational = module.log_variational
        self.register_buffer("batch", torch.eye(module.n_batch)[index, None], persistent=False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Counts (n, genes), or an AnnData of n cells -> codes (n, d)."""
        if not isinstance(x, Tensor):
            with torch.random.fork_rng():  # scvi draws a sample before it returns the mean
                codes = self._model[0].get_latent_representation(x)
            return torch.as_tensor(codes).to(self.batch)
        genes = self.network.encoder.fc_layers[0][0].in_features
        genes -= self.batch.shape[1] if self.network.encoder.n_cov else 0
        if x.ndim != 2 or x.shape[1] != genes:
            raise ValueError(f"expected counts of shape (n, {genes}), or an AnnData, got shape {tuple(x.shape)}")
        if (x < 0).any():
            raise ValueError(
                f"expected counts, got a value of {x.min():.3g}; are these log-normalised or scaled values? "
                "Where an AnnData keeps counts in a layer, name it, as in layer='counts'"
            )
        return torch.cat([self._mean(part.to(self.batch)) for part in x.split(_BATCH)])

    def _mean(self, x: Tensor) -> Tensor:
        return self.network.mean_encoder(self._hidden(x, self.batch.expand(len(x), -1)))

    def _hidden(self, x: Tensor, batch: Tensor) -> Tensor:
        return self.network.encoder(x.log1p() if self.log_variational else x, batch)

    def cells(self, data: object) -> tuple[Tensor, Tensor]:
        """Counts (n, genes) and batches (n, batches), of counts or of an AnnData's cells."""
        if isinstance(data, Tensor):
            x = data.to(self.batch)
            return x, self.batch.expand(len(x), -1)
        model = self._model[0]
        manager = model.get_anndata_manager(model._validate_anndata(data), required=True)
        counts, batch = (manager.get_from_registry(key) for key in ("X", "batch"))
        x = torch.as_tensor(counts.toarray() if scipy.sparse.issparse(counts) else np.asarray(counts)).to(self.batch)
        index = torch.as_tensor(np.asarray(batch).ravel().astype(int), device=x.device)
        return x, nn.functional.one_hot(index, self.batch.shape[1]).to(self.batch)

    @torch.no_grad()
    def posterior_sampler(self, data: object) -> Callable[[Tensor], Tensor]:
        """What turns standard normal draws (n, d) into draws from the posteriors of cells."""
        x, batch = self.cells(data)
        hidden = self._hidden(x, batch)
        variance = self.network.var_activation(self.network.var_encoder(hidden)) + self.network.var_eps
        mean = self.network.mean_encoder(hidden)
        return lambda noise: mean + variance.sqrt() * noise


class _LogMean(nn.Module):
    """Logarithm of the mean counts of a cell with given library size and batch: (B, d) -> (B, genes)."""

    def __init__(self, module: nn.Module, index: int, library_size: float) -> None:
        super().__init__()
        self.hidden = copy.deepcopy(module.decoder.px_decoder)
        self.linear = copy.deepcopy(module.decoder.px_scale_decoder[0])
        self.softplus = isinstance(module.decoder.px_scale_decoder[1], nn.Softplus)  # of models with size factors
        self.register_buffer("batch", torch.eye(module.n_batch)[index, None], persistent=False)
        self.register_buffer("log_library", torch.tensor(library_size).log(), persistent=False)

    def forward(self, z: Tensor, batch: Tensor | None = None) -> Tensor:
        """Log-means; the logarithm of the softmax is stable where its values vanish."""
        logits = self.linear(self.hidden(z, self.batch.expand(len(z), -1) if batch is None else batch))
        scale = nn.functional.softplus(logits).log() if self.softplus else logits.log_softmax(-1)
        return scale + self.log_library
