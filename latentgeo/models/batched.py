"""Several seeds of one configuration trained as one model whose weights are stacked."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from latentgeo.models.training import TrainingConfig, TrainingState, _Training
from latentgeo.models.vae import ARCHITECTURES, VAE


class _MeanLoss(nn.Module):
    """The mean -ELBO of a batch as a module's output, which is what ``functional_call`` can evaluate."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, epsilon: Tensor) -> Tensor:
        squared_error, divergence = self.model.loss_terms(x, epsilon=epsilon)
        return (squared_error + divergence).mean()


class _Batch:
    """The seeds that are still in training; row s of every stacked tensor is theirs in the order of ``trainings``."""

    def __init__(self, trainings: Sequence[_Training], latent_dim: int) -> None:
        self.trainings = list(trainings)
        self.config, self.latent_dim = trainings[0].config, latent_dim
        self.weights, _ = stack_module_state([_MeanLoss(training.model) for training in trainings])
        skeleton = _MeanLoss(copy.deepcopy(trainings[0].model)).to("meta").train()
        self.losses = torch.vmap(lambda weights, *inputs: functional_call(skeleton, weights, inputs))
        self.optimiser = self._fresh_optimiser()

    def _fresh_optimiser(self) -> torch.optim.Adamax:
        return torch.optim.Adamax(self.weights.values(), lr=self.config.learning_rate, foreach=True)

    def run_epoch(self, images: Tensor, validation: Tensor) -> list[dict[str, float]]:
        """Train all seeds for one epoch and evaluate each: one row for each seed."""
        began, size = time.perf_counter(), self.config.batch_size
        generators = [training.generator for training in self.trainings]
        orders = torch.stack([torch.randperm(len(images), generator=g, device=images.device) for g in generators])
        steps, step = len(images) // size, self.trainings[0].step
        like = next(iter(self.weights.values()))
        total = torch.zeros(len(generators), device=images.device)
        for indices in orders[:, : steps * size].split(size, dim=1):  # [seeds, images]
            shape = (size, self.latent_dim)
            draws = [torch.randn(shape, generator=g, dtype=like.dtype, device=like.device) for g in generators]
            losses = self.losses(self.weights, images[indices], torch.stack(draws))
            self.optimiser.zero_grad(set_to_none=True)
            losses.sum().backward()  # no weight belongs to two seeds, so each gets the gradient of its own loss
            _clip([weight.grad for weight in self.weights.values() if weight.grad is not None], self.config.clip_norm)
            for group in self.optimiser.param_groups:
                group["lr"] = self.config.rate(step)
            self.optimiser.step()
            total += losses.detach()
            step += 1
        self._hand_out(step)
        train_losses = (total / steps).tolist()
        closed = [(t, t.close_epoch(loss, validation)) for t, loss in zip(self.trainings, train_losses, strict=True)]
        share = (time.perf_counter() - began) / len(closed)
        return [{"seed": training.seed} | row | {"seconds": share} for training, row in closed]

    @torch.no_grad()
    def _hand_out(self, step: int) -> None:
        """Give each seed its row of the weights and of the optimiser's state."""
        for row, training in enumerate(self.trainings):
            training.step = step
            for parameter, stacked in zip(training.parameters, self.weights.values(), strict=True):
                parameter.copy_(stacked[row])
                training.optimiser.state[parameter] = _rows(self.optimiser.state[stacked], row)

    def drop_stopped(self) -> None:
        """Go on with the seeds whose patience has not run out."""
        staying = [row for row, training in enumerate(self.trainings) if not training.stopped]
        if len(staying) == len(self.trainings):
            return
        self.trainings = [self.trainings[row] for row in staying]
        previous, old = self.optimiser, self.weights
        self.weights = {
            name: weight.detach()[staying].requires_grad_(weight.requires_grad) for name, weight in old.items()
        }
        self.optimiser = self._fresh_optimiser()
        for name, weight in self.weights.items():
            self.optimiser.state[weight] = _rows(previous.state[old[name]], staying)


def _rows(slots: dict[str, Tensor], rows: int | list[int]) -> dict[str, Tensor]:
    """Rows of an optimiser's state; the number of steps, a scalar, is the same for all."""
    return {name: value[rows] if value.ndim else value.clone() for name, value in slots.items()}


def _clip(gradients: Sequence[Tensor], largest: float) -> None:
    """``clip_grad_norm_`` in place for every row of stacked gradients by itself."""
    norms = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients]).norm(dim=0)  # [seeds]
    scale = (largest / (norms + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(list(gradients), [scale.view(-1, *[1] * (g.ndim - 1)) for g in gradients])


def train_seeds(
    models: Sequence[VAE],
    images: Tensor,
    validation: Tensor,
    config: TrainingConfig,
    *,
    seeds: Sequence[int],
    on_epoch: Callable[[dict[str, float], Callable[[], TrainingState]], None] | None = None,
) -> list[VAE]:
    r"""Train several seeds at once, each as :func:`latentgeo.train` would train it alone, up to rounding.

    The weights :math:`\theta_s` of all seeds are stacked, and one backward pass of the sum of their losses gives every
    seed its own gradient, as no weight belongs to two seeds:

    .. math:: \frac{\partial}{\partial \theta_s} \sum_{r=1}^{S} L(\theta_r; x_r, \epsilon_r)
        = \frac{\partial}{\partial \theta_s} L(\theta_s; x_s, \epsilon_s).

    Each seed has its own order of images, noise, clipping of the gradient, choice of the best epoch and early stopping;
    a seed that stops leaves the batch. Whether this is faster than one seed after another: :func:`pays`.

    Args:
        models: the S models, already on their device. They differ in their weights alone, as those that
            :func:`latentgeo.build_vae` makes from several seeds; they are trained in place.
        images: training images, shape (n, *event).
        validation: held-out images that choose the epoch to keep, shape (m, *event); never the test set.
        config: the optimiser's settings.
        seeds: for each model the seed of its order of images and of its reparametrisation noise.
        on_epoch: called after each epoch for each seed still in training, with the row of :func:`latentgeo.train` and
            the ``seed``, and with a function that copies the state of that seed's training, from which
            :func:`latentgeo.train` can go on. ``seconds`` are the seed's share of the epoch's.

    Returns:
        The same models with the weights of their best epochs, in evaluation mode.

    Raises:
        TypeError: a model is not a plain :class:`VAE`.
        ValueError: there is no model, a model comes twice, the models differ in more than their weights or have
            buffers, the number of seeds is not theirs, or there are fewer images than one batch.
        FloatingPointError: the loss of one seed, which is named, stopped being finite; this ends the others too.

    Example:
        >>> from latentgeo.models.vae import build_vae
        >>> models = [build_vae("mlp", (1, 8, 8), 2, 1, seed=seed) for seed in (0, 1)]
        >>> config = TrainingConfig(epochs=1, batch_size=8)
        >>> images = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> len(train_seeds(models, images, images, config, seeds=(0, 1)))
        2
    """
    _check(models, seeds)
    if len(images) < config.batch_size:
        raise ValueError(
            f"expected at least one batch of {config.batch_size} training images, got {len(images)}; "
            "lower TrainingConfig.batch_size"
        )
    with torch.no_grad():
        latent_dim = models[0].posterior(images[:1])[0].shape[1]
    trainings = [_Training(model, config, seed, images.device) for model, seed in zip(models, seeds, strict=True)]
    batch = _Batch(trainings, latent_dim)
    for _ in range(config.epochs):
        rows = batch.run_epoch(images, validation)
        if on_epoch is not None:
            for row, training in zip(rows, batch.trainings, strict=True):
                on_epoch(row, training.state)
        batch.drop_stopped()
        if not batch.trainings:
            break
    for training in trainings:
        training.model.load_state_dict(training.best)
        training.model.eval()
    return list(models)


def _check(models: Sequence[VAE], seeds: Sequence[int]) -> None:
    if not models or len(models) != len(seeds):
        raise ValueError(f"expected at least one model and a seed for each, got {len(models)} and {len(seeds)}")
    if len({id(model) for model in models}) < len(models):
        raise ValueError("models: expected different objects, got one of them twice; build one for each seed")
    for model in models:
        if type(model) is not VAE:
            raise TypeError(
                f"models: expected plain VAEs, got {type(model).__name__}; train the others one by one with train"
            )
        if next(model.buffers(), None) is not None:
            raise ValueError(
                "models: expected models without buffers (such as those of batch normalisation); train these one by "
                "one with train"
            )
    first = _description(models[0])
    for number, model in enumerate(models[1:], start=1):
        if _description(model) != first:
            raise ValueError(
                f"models: expected models that differ in their weights alone, but model {number} differs from model 0 "
                "in its layers, their sizes, its noise, dtype or device; build all with the same arguments but seed"
            )


def _description(model: VAE) -> tuple[object, ...]:
    """Everything that stacked models must have in common."""
    weights = [(name, w.shape, w.dtype, w.device, w.requires_grad) for name, w in model.named_parameters()]
    return repr(model), model.noise, weights


def pays(architecture: str, device: torch.device | str) -> bool:
    """Whether :func:`train_seeds` is expected to beat training the same seeds one after another.

    Processor time of S seeds one after another, divided by that of the batch, on one thread of a CPU that was busy
    otherwise (8 decoders, the quick presets, two runs of ``python -m tests.benchmarks.batched one_thread``; above 1,
    batching would pay):

    ===============  ============  ============  ============
    data             architecture  S = 2         S = 4
    ===============  ============  ============  ============
    digits           mlp           0.82, 0.67    0.97, 0.89
    Fashion-MNIST    mlp           0.89, 0.97    0.93, 1.02
    Fashion-MNIST    conv          0.93, 0.96    1.00, 1.03
    ===============  ============  ============  ============

    The runs differ by more than anything gained, so it does not pay on a CPU. More threads do not change this: they can
    at best share out the batch's time as processes share out the seeds. On a GPU nothing has been measured. ``"mlp"``
    is expected to gain there, as its kernels are too small to fill one; convolutions with stacked weights become
    grouped ones, which need not be faster, so the answer for ``"conv"`` is no until
    ``python -m tests.benchmarks.batched cuda`` says otherwise.

    Args:
        architecture: ``"conv"`` or ``"mlp"``.
        device: where the models are.

    Raises:
        ValueError: the architecture is unknown.

    Example:
        >>> pays("mlp", "cpu")
        False
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"expected an architecture among {', '.join(ARCHITECTURES)}, got {architecture!r}")
    return architecture == "mlp" and torch.device(device).type == "cuda"
