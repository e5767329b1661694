"""Training: Adamax with warm-up and exponential decay, gradient clipping, early stopping on held-out data."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from latentgeo.models.vae import VAE


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


def train(
    model: VAE,
    images: Tensor,
    validation: Tensor,
    config: TrainingConfig,
    *,
    seed: int,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> VAE:
    """Train a VAE in place and leave it with the weights of its best epoch, in evaluation mode.

    Args:
        model: the model, already on its device.
        images: training images, shape (n, *event).
        validation: held-out images that choose the epoch to keep, shape (m, *event); never the test set.
        config: the optimiser's settings.
        seed: seed of the order of images and of the reparametrisation noise.
        on_epoch: called after each epoch with its number, losses (nats per image) and seconds.

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
    generator = torch.Generator(device=images.device).manual_seed(seed)
    parameters = list(model.parameters())
    optimiser = torch.optim.Adamax(parameters, lr=config.learning_rate, foreach=True)
    steps_per_epoch = len(images) // config.batch_size
    best_loss, best_weights, best_epoch, step = math.inf, copy.deepcopy(model.state_dict()), -1, 0
    for epoch in range(config.epochs):
        began = time.perf_counter()
        model.train()
        order = torch.randperm(len(images), generator=generator, device=images.device)
        total = 0.0
        for indices in order[: steps_per_epoch * config.batch_size].split(config.batch_size):
            squared_error, divergence = model.loss_terms(images[indices], generator)
            loss = (squared_error + divergence).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm, foreach=True)
            for group in optimiser.param_groups:
                group["lr"] = config.rate(step)
            optimiser.step()
            total += loss.item()
            step += 1
        model.eval()
        validation_loss = model.evaluate(validation)
        if not math.isfinite(total + validation_loss):
            raise FloatingPointError(
                f"the loss is no longer finite in epoch {epoch} (training {total}, validation {validation_loss}); "
                "lower the learning rate"
            )
        if validation_loss < best_loss:
            best_loss, best_weights, best_epoch = validation_loss, copy.deepcopy(model.state_dict()), epoch
        if on_epoch is not None:
            on_epoch(
                {
                    "epoch": epoch,
                    "train_loss": total / steps_per_epoch,
                    "validation_loss": validation_loss,
                    "seconds": time.perf_counter() - began,
                }
            )
        if epoch - best_epoch >= config.patience:
            break
    model.load_state_dict(best_weights)
    return model.eval()
