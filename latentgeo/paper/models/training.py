"""Training: Adamax with warm-up and exponential decay, gradient clipping, early stopping on held-out data."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from latentgeo.paper.models.vae import VAE


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained. The defaults are those of the paper's released Fashion-MNIST configuration.

    Attributes:
        epochs: passes over the training data at most.
        batch_size: images per step, dealt out among the K decoders.
        learning_rate: peak learning rate of Adamax.
        warmup_steps: steps of linear warm-up.
        half_life: steps in which the learning rate halves (exponential decay).
        clip_norm: largest norm of the gradient over all parameters.
        patience: epochs without a better validation ELBO before training stops.
    """

    epochs: int = 500
    batch_size: int = 256
    learning_rate: float = 1e-3
    warmup_steps: int = 1000
    half_life: int = 100_000
    clip_norm: float = 1.0
    patience: int = 10

    def __post_init__(self) -> None:
        """Refuse values that cannot be trained with."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"TrainingConfig.{field.name} expects a positive finite number, got {value!r}")

    def rate(self, step: int) -> float:
        """Learning rate at a step: linear warm-up times exponential decay."""
        warmup = min(1.0, (step + 1) / self.warmup_steps)
        return self.learning_rate * warmup * 0.5 ** (step / self.half_life)


class _Training:
    """A model in the middle of its training."""

    def __init__(self, model: VAE, config: TrainingConfig, seed: int, device: torch.device) -> None:
        self.model, self.config, self.seed = model, config, seed
        self.parameters = list(model.parameters())
        self.generator = torch.Generator(device=device).manual_seed(seed)
        self.optimiser = torch.optim.Adamax(self.parameters, lr=config.learning_rate)
        self.best_loss, self.best_epoch, self.best = math.inf, -1, _copied(model.state_dict())
        self.epoch = self.step = 0

    @property
    def stopped(self) -> bool:
        """Whether patience has run out."""
        return self.epoch - 1 - self.best_epoch >= self.config.patience

    def state(self) -> dict[str, Tensor]:
        """Copy of everything that the rest of the training depends on.

        That is weights (``model.*``), those of the best epoch (``best.*``), the optimiser's (``optimiser.*``), the
        generator's state (``generator``), and ``progress``: the epochs and steps that are done, the best epoch and its
        validation loss (nats per image).
        """
        slots = self.optimiser.state_dict()["state"]
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        tensors |= {f"optimiser.{i}.{name}": value for i, slot in slots.items() for name, value in slot.items()}
        tensors["generator"] = self.generator.get_state()
        progress = [self.epoch, self.step, self.best_epoch, self.best_loss]
        tensors["progress"] = torch.tensor(progress, dtype=torch.float64)
        return _copied(tensors)

    def resume(self, state: Mapping[str, Tensor]) -> None:
        """Take up where a state was taken."""
        self.model.load_state_dict(_part(state, "model."))
        self.best = _copied(_part(state, "best."))
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in _part(state, "optimiser.").items():
            number, slot = name.split(".", 1)
            slots.setdefault(int(number), {})[slot] = value.clone()
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": slots, "param_groups": groups})
        self.generator.set_state(state["generator"].cpu())
        *counts, self.best_loss = state["progress"].tolist()
        self.epoch, self.step, self.best_epoch = map(int, counts)

    def run_epoch(self, images: Tensor, validation: Tensor) -> dict[str, float]:
        """Train for one epoch, evaluate, and note whether it is the best.

        Raises:
            FloatingPointError: a loss is not finite.
        """
        began, batch = time.perf_counter(), self.config.batch_size
        self.model.train()
        order = torch.randperm(len(images), generator=self.generator, device=images.device)
        steps = len(images) // batch
        total = torch.zeros((), device=images.device)
        for indices in order[: steps * batch].split(batch):
            squared_error, divergence = self.model.loss_terms(images[indices], self.generator)
            loss = (squared_error + divergence).mean()
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
            for group in self.optimiser.param_groups:
                group["lr"] = self.config.rate(self.step)
            self.optimiser.step()
            total += loss.detach()
            self.step += 1
        train_loss = total.item() / steps
        validation_loss = self.model.eval().evaluate(validation)
        if not math.isfinite(train_loss + validation_loss):
            raise FloatingPointError(
                f"the loss of seed {self.seed} is no longer finite in epoch {self.epoch} (training {train_loss}, "
                f"validation {validation_loss}); lower the learning rate"
            )
        if validation_loss < self.best_loss:
            self.best_loss, self.best_epoch = validation_loss, self.epoch
            self.best = _copied(self.model.state_dict())
        self.epoch += 1
        losses = {"train_loss": train_loss, "validation_loss": validation_loss}
        return {"epoch": self.epoch - 1, **losses, "seconds": time.perf_counter() - began}


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in tensors.items()}


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def train(
    model: VAE,
    images: Tensor,
    validation: Tensor,
    config: TrainingConfig,
    *,
    seed: int,
    on_epoch: Callable[[dict[str, float], Callable[[], dict[str, Tensor]]], None] | None = None,
    resume: Mapping[str, Tensor] | None = None,
) -> VAE:
    """Train a VAE in place and leave it with the weights of its best epoch, in evaluation mode.

    Args:
        model: the model, already on its device.
        images: training images, shape (n, *event).
        validation: held-out images that choose the epoch to keep, shape (m, *event); never the test set.
        config: the optimiser's settings.
        seed: seed of the order of images and of the reparametrisation noise.
        on_epoch: called after each epoch with its number, losses (nats per image) and seconds, and with a function
            that copies the state of the training.
        resume: a state from which to go on. On the same machine, with the same number of threads, the result is that
            of an uninterrupted training bit for bit.

    Returns:
        The same model.

    Raises:
        ValueError: there are fewer images than one batch.
        FloatingPointError: the loss stopped being finite.
    """
    if len(images) < config.batch_size:
        raise ValueError(
            f"expected at least one batch of {config.batch_size} training images, got {len(images)}; "
            "lower TrainingConfig.batch_size"
        )
    model.prepare(images)
    training = _Training(model, config, seed, images.device)
    if resume is not None:
        training.resume(resume)
    while training.epoch < config.epochs and not training.stopped:
        row = training.run_epoch(images, validation)
        if on_epoch is not None:
            on_epoch(row, training.state)
    model.load_state_dict(training.best)
    return model.eval()
