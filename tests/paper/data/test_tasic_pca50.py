import numpy as np
import pytest

import latentgeo as lg
from latentgeo.paper import data as datasets
from latentgeo.paper.data.cells import all_cells


def test_components_of_tasic_must_fit_their_types(folder):
    with pytest.raises(lg.paper.MissingDataError, match=r"tasic-pca50\.npy was not found"):
        lg.paper.load_dataset("tasic_pca50")
    n, random = 4_100, np.random.default_rng(0)
    x = random.standard_normal((n, 50)) * 30
    types = np.array(["Vip a", "Sst c"])[np.arange(n) % 2]
    np.save(folder / "tasic-pca50.npy", x)
    np.save(folder / "tasic-ttypes.npy", types)
    np.save(folder / "tasic-colors.npy", np.where(types == "Vip a", "#AA0000", "#0000CC"))
    data = lg.paper.load_dataset("tasic_pca50")
    assert data.train.shape == (100, 50)
    assert (data.class_names, data.class_colours) == (("Sst c", "Vip a"), ("#0000cc", "#aa0000"))
    assert 0.8 < all_cells(data)[0][:, 0].std() < 1.2
    np.save(folder / "tasic-colors.npy", np.array(["#AA0000"]))
    datasets._load_cached.cache_clear()
    with pytest.raises(lg.paper.DataError, match="a type and a colour for each"):
        lg.paper.load_dataset("tasic_pca50")
    np.save(folder / "tasic-colors.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(lg.paper.DataError, match="cannot be read"):
        lg.paper.load_dataset("tasic_pca50")
