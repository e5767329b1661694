import hashlib

import numpy as np
import pandas as pd
import pytest

import latentgeo as lg
from latentgeo.paper.data import tasic


def _tasic_csv():
    """A file in the layout of the published one, of 23,822 cells."""
    n, random = 23_822, np.random.default_rng(0)
    table = pd.DataFrame({"sample_name": [f"cell{i}" for i in range(n)], "cluster_id": 1 + random.integers(0, 3, n)})
    table["cluster_color"] = table["cluster_id"].map({1: "#AA0000", 2: "#00BB00", 3: "#0000CC"})
    table["cluster_label"] = table["cluster_id"].map({1: "Vip a", 2: "Vip b", 3: "Sst c"})
    for gene in ("Gad2", "Slc17a7", "Lamp5", "Sncg", "Vip", "Sst", "Pvalb"):
        table[f"{gene}_log10_cpm"] = random.random(n).round(3)
    return table.to_csv(index=False).encode()


def test_tasic_is_found_checked_and_read(folder, monkeypatch):
    with pytest.raises(lg.paper.MissingDataError, match="latentgeo data tasic"):
        lg.paper.load_dataset("tasic")
    content = _tasic_csv()
    path = folder / "tasic-sample_heatmap_plot_data.csv"  # in the root of LATENTGEO_DATA
    path.write_bytes(content)
    with pytest.raises(lg.paper.DataError, match="is damaged: expected sha256 57a682d4"):
        lg.paper.load_dataset("tasic")
    monkeypatch.setattr(tasic, "_SHA256", hashlib.sha256(content).hexdigest())
    (folder / "tasic").mkdir()
    path.rename(folder / "tasic" / path.name)
    data = lg.paper.load_dataset("tasic")
    assert data.train.shape == (19_822, 7)
    assert data.class_names == ("Vip a", "Vip b", "Sst c")
    assert data.class_colours == ("#aa0000", "#00bb00", "#0000cc")
    monkeypatch.setattr(tasic, "download", lambda *arguments: pytest.fail("nothing is to be fetched"))
    tasic.fetch()
