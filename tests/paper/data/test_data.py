import pytest
import torch

import latentgeo as lg
from latentgeo.paper import data as datasets


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["digits", "fashion_mnist"])
def test_the_parts_share_no_image_and_do_not_depend_on_chance(name):
    data = lg.paper.load_dataset(name)
    parts = [{hash(image.numpy().tobytes()) for image in part} for part in (data.train, data.validation)]
    # Both data sets hold a few images twice; no more may be shared than chance puts on both sides.
    assert len(parts[0] & parts[1]) <= 0.01 * len(parts[1])
    assert not torch.equal(data.validation[: len(data.test)][:50], data.test[:50])
    datasets._load_cached.cache_clear()
    assert torch.equal(lg.paper.load_dataset(name).validation, data.validation)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"digits, fashion_mnist.*, got 'mnist'"):
        lg.paper.load_dataset("mnist")
