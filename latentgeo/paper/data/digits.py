"""Handwritten digits, which ship with scikit-learn."""

from __future__ import annotations

import numpy as np
import torch

from latentgeo.paper.data.base import Dataset, deal, images
from latentgeo.paper.paths import checksum


def load() -> Dataset:
    """The 1,797 digits of 8×8 pixels: 1,257 for training, 180 for validation, 360 for testing."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels, labels = images(bunch.images, 16.0), torch.from_numpy(bunch.target.astype(np.int64))
    test, validation, train = deal(pixels, labels, 360, 180)
    return Dataset(
        "digits",
        *train,
        *validation,
        *test,
        class_names=tuple(str(digit) for digit in range(10)),
        source="scikit-learn's copy of https://archive.ics.uci.edu/dataset/80",
        licence="CC BY 4.0",
        sha256={
            "images": checksum(bunch.images.astype("<f8").tobytes()),
            "labels": checksum(bunch.target.astype("<i8").tobytes()),
        },
    )
