r"""The paper's perceptual variant: the loss also compares features of a VGG16 network trained on ImageNet.

Weights of VGG16 do not come with this package; a file of them is named by its path and never unpickled.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from latentgeo.paper.models.vae import VAE

# Output channels of the convolutions up to conv3_3, by their number in torchvision's ``features``.
VGG16_LAYERS = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256}
_POOLED_BEFORE = (5, 10)
KL_WEIGHT = 0.9  # β, of the paper's released configuration
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which the network was trained with
VGG16_REMEDY = (
    "give the path of VGG16 weights trained on ImageNet as .safetensors or as a PyTorch state dict, with torchvision's "
    "names (features.0.weight, …), for instance https://download.pytorch.org/models/vgg16-397923af.pth, or leave the "
    "perceptual loss out"
)


def load_vgg16(path: Path | str) -> dict[str, Tensor]:
    """Weights of the convolutions conv1_1 to conv3_3 of VGG16, from a file.

    Args:
        path: of a ``.safetensors`` file or a PyTorch state dict, with torchvision's names; nothing is unpickled.

    Returns:
        ``features.N.weight`` and ``features.N.bias`` of each convolution.

    Raises:
        FileNotFoundError: there is no such file; the message says where weights come from.
        ValueError: the file is not a state dict, or lacks a tensor, or one is not finite or not of VGG16's shape.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the perceptual loss needs weights of VGG16; {VGG16_REMEDY}")
    try:
        if path.suffix == ".safetensors":
            found = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read as weights ({error}); {VGG16_REMEDY}") from error
    if not isinstance(found, Mapping):
        raise ValueError(f"{path}: expected a state dict, got {type(found).__name__}; {VGG16_REMEDY}")
    weights, incoming = {}, 3
    for number, outgoing in VGG16_LAYERS.items():
        shapes, incoming = {"weight": (outgoing, incoming, 3, 3), "bias": (outgoing,)}, outgoing
        for kind, shape in shapes.items():
            name = f"features.{number}.{kind}"
            tensor = found.get(name)
            if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape or not torch.isfinite(tensor).all():
                got = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
                raise ValueError(
                    f"{path}: expected {name} to be finite numbers of shape {shape}, got {got}; {VGG16_REMEDY}"
                )
            weights[name] = tensor.float()
    return weights


def vgg16_features(weights: Mapping[str, Tensor], x: Tensor) -> list[Tensor]:
    """Features of images at conv1_1, conv1_2, conv2_1, conv2_2, conv3_1, conv3_2 and conv3_3, after the ReLU.

    Args:
        weights: from :func:`load_vgg16`.
        x: images in [0, 1], shape (B, 3, height, width) with sides of at least 4.

    Returns:
        One tensor for each convolution, shape (B, channels, height', width').
    """
    mean, std = (x.new_tensor(values).view(1, 3, 1, 1) for values in (_MEAN, _STD))
    x, features = (x - mean) / std, []
    for number in VGG16_LAYERS:
        if number in _POOLED_BEFORE:
            x = F.max_pool2d(x, 2)
        weight, bias = (weights[f"features.{number}.{kind}"].to(x) for kind in ("weight", "bias"))
        x = F.relu(F.conv2d(x, weight, bias, padding=1))
        features.append(x)
    return features


class PerceptualVAE(VAE):
    r"""A VAE whose loss also compares the features :math:`\phi_l` of an image and of its reconstruction.

    .. math:: \tfrac{1}{2 \tau^2} \|x - f_k(z)\|^2
        + \sum_l \tfrac{1}{2 n_l} \|\phi_l(x) - \phi_l(f_k(z))\|^2
        + \beta\, \mathrm{KL}\big(q(z \mid x) \,\|\, p(z)\big), \qquad \beta = 0.9,

    with :math:`n_l` entries in the features of convolution l, from conv1_1 to conv3_3. The metric is the pull-back of
    pixels, as without it; only what the decoders learn is different.

    Source: the paper's released code, which counts conv3_3 twice; here it counts once. It trains this loss with
    networks of its own; here they are those of the model that is given. Where it leaves open what the features are
    (they come from another package), they are those after the ReLU, of images normalised as in ImageNet.

    Args:
        model: gives its encoder, decoders and noise; of images with three channels.
        weights: path of the weights of VGG16, see :func:`load_vgg16`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file does not hold the weights.
    """

    def __init__(self, model: VAE, weights: Path | str) -> None:
        super().__init__(model.encoder, list(model.decoders), model.noise)
        self._vgg16 = load_vgg16(weights)  # a plain dictionary: neither trained nor saved with the model

    def loss_terms(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Both terms of the loss for each image: of pixels and features, and the weighted divergence.

        Args:
            x: images, shape (B, 3, height, width), in [0, 1] or as bytes.
            generator: source of the reparametrisation noise.

        Returns:
            Two tensors of shape (B,).
        """
        reconstruction_loss, divergence = super().loss_terms(x, generator)
        return reconstruction_loss, KL_WEIGHT * divergence

    def reconstruction_loss(self, x: Tensor, reconstruction: Tensor) -> Tensor:
        """The scaled squared error and the differences of the features of each image, shape (B,)."""
        loss = super().reconstruction_loss(x, reconstruction)
        with torch.no_grad():
            wanted = vgg16_features(self._vgg16, x)
        for feature, made in zip(wanted, vgg16_features(self._vgg16, reconstruction), strict=True):
            loss = loss + 0.5 * (feature - made).square().flatten(1).mean(1)
        return loss

    @torch.no_grad()
    def evaluate(self, x: Tensor, seed: int = 0, batch_size: int = 128) -> float:
        """Return the mean loss of images (lower is better), with fixed noise; features take much memory per image."""
        return super().evaluate(x, seed, batch_size)
