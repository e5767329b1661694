r"""A variational autoencoder of counts: negative binomial likelihood, and the geometry that goes with it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from latentgeo.geometry.decoder import Ensemble
from latentgeo.geometry.likelihood import fisher_rao
from latentgeo.paper.models.vae import VAE

_DISPERSION = (0.1, 100.0)  # of the moment estimates that learning starts from


class _LogMean(nn.Module):
    """Log-means of a cell with a given library size."""

    def __init__(self, decoder: nn.Module, library: Tensor) -> None:
        super().__init__()
        self.decoder = decoder
        self.register_buffer("log_library", library.log(), persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        return self.decoder(z) + self.log_library


class CountVAE(VAE):
    r"""VAE whose decoders give proportions of genes and whose likelihood is the negative binomial.

    A cell x with library size :math:`\ell = \sum_g x_g` has, gene by gene,

    .. math:: x_g \sim \mathrm{NB}(\mu_g, r_g), \quad \mu = \ell\, \rho_k(z), \quad
        \mathrm{Var}\, x_g = \mu_g + \mu_g^2 / r_g,

    with proportions :math:`\rho_k` from decoder k and dispersions r that all decoders share. The geometry is that of
    the Fisher-Rao metric at the mean library size :math:`\bar\ell` of the training cells: an ordinary decoder

    .. math:: z \mapsto 2 \sqrt{r}\, \operatorname{asinh} \sqrt{\bar\ell \rho_k(z) / r},

    in which the counts have about unit variance, so that distances are in standard deviations of the data. How deeply
    a cell was sequenced is not part of its code.

    Sources: Lopez et al., "Deep generative modeling for single-cell transcriptomics", Nature Methods 2018 (the
    likelihood, here without zero inflation and with the observed library size); Arvanitidis et al., "Pulling back
    information geometry", AISTATS 2022 (the geometry).

    Args:
        encoder: module (B, *event) -> (B, 2 d) that takes counts, such as
            :class:`~latentgeo.paper.models.networks.CountEncoder`.
        decoders: the K decoders, modules (B, d) -> (B, *event) that give log-proportions, such as
            :class:`~latentgeo.paper.models.networks.ProportionDecoder`.
        noise: must be 1: the variance is the negative binomial's own.

    Raises:
        ValueError: ``noise`` is not 1.
    """

    def __init__(self, encoder: nn.Module, decoders: list[nn.Module], noise: float = 1.0) -> None:
        super().__init__(encoder, decoders, noise)
        if noise != 1.0:
            raise ValueError(f"noise: expected 1 for counts, whose variance is the likelihood's own, got {noise!r}")
        self.log_dispersion = nn.Parameter(torch.zeros(decoders[0].event_shape))
        self.register_buffer("library", torch.ones(()))

    def prepare(self, x: Tensor) -> None:
        r"""Take the mean library size from training cells, and starting values of proportions and dispersions.

        Args:
            x: counts of the training cells, shape (n, \*event).

        Raises:
            ValueError: they are not counts, or a cell has none.
        """
        _check_counts(x)
        library = x.flatten(1).sum(1)
        self.library.copy_(library.mean())
        scaled = x * (self.library / library).view(-1, *[1] * (x.ndim - 1))
        mean, variance = scaled.mean(0), scaled.var(0)
        excess = (variance - mean).clamp_min(1e-6 * mean.max())
        with torch.no_grad():
            self.log_dispersion.copy_((mean.square() / excess).clamp(*_DISPERSION).log())
            for decoder in self.decoders:
                last = [module for module in decoder.modules() if isinstance(module, nn.Linear)][-1]
                last.bias.copy_((mean.flatten() + 1.0 / len(x)).log())

    @property
    def decode(self) -> Ensemble:
        """All decoders as one, in the coordinates in which the Fisher-Rao metric is Euclidean."""
        log_means = Ensemble([_LogMean(decoder, self.library) for decoder in self.decoders]).eval()
        return fisher_rao(log_means, "negative_binomial", dispersion=self.log_dispersion.detach().exp(), log=True)

    def code_likelihood(self, x: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """Log p(x | z) of counts at the cells' own library sizes, mean over decoders, see :class:`LatentModel`."""

        def log_likelihood(z: Tensor, rows: Tensor) -> Tensor:
            return torch.stack([-self.reconstruction_loss(x[rows], decoder(z)) for decoder in self.decoders]).mean(0)

        return log_likelihood

    def reconstruction_loss(self, x: Tensor, reconstruction: Tensor) -> Tensor:
        r"""Return :math:`-\log p(x \mid z)` of counts given decoded log-proportions, (B, \*event) each -> (B,)."""
        library = x.flatten(1).sum(1).view(-1, *[1] * (x.ndim - 1))
        return -log_negative_binomial(x, reconstruction + library.log(), self.log_dispersion).flatten(1).sum(1)


def log_negative_binomial(x: Tensor, log_mean: Tensor, log_dispersion: Tensor) -> Tensor:
    r"""Logarithm of the negative binomial's probabilities, stable for small means and large dispersions.

    .. math:: \log \frac{\Gamma(x + r)}{\Gamma(r)\, x!} + r \log \frac{r}{r + \mu} + x \log \frac{\mu}{r + \mu}

    Args:
        x: counts.
        log_mean: log μ, broadcast against x.
        log_dispersion: log r, broadcast against x.

    Returns:
        In nats, of the broadcast shape.

    Example:
        With r = 1 it is geometric; of mean 1, each further count is half as probable:

        >>> log_negative_binomial(torch.arange(3.0), torch.zeros(1), torch.zeros(1)).exp()
        tensor([0.5000, 0.2500, 0.1250])
    """
    r = log_dispersion.exp()
    log_total = torch.logaddexp(log_mean, log_dispersion)
    combinations = torch.lgamma(x + r) - torch.lgamma(r) - torch.lgamma(x + 1.0)
    return combinations + r * (log_dispersion - log_total) + x * (log_mean - log_total)


def _check_counts(x: Tensor) -> None:
    if not bool(torch.isfinite(x).all()) or bool((x < 0).any()) or bool((x != x.round()).any()):
        raise ValueError("expected counts, that is integers of at least 0; got other values (normalised data?)")
    if bool((x.flatten(1).sum(1) == 0).any()):
        raise ValueError("expected at least one count in every cell, got an empty cell; remove it")
