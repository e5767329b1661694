"""Blood cells, and two models trained on them for moments."""

import pytest

import latentgeo as lg


@pytest.fixture(scope="session")
def counts():
    pytest.importorskip("scanpy", reason="the cells ship with scanpy: pip install 'latentgeo[singlecell]'")
    return lg.paper.load_dataset("pbmc68k_counts")


@pytest.fixture(scope="session")
def trained(counts, tmp_path_factory):
    config = lg.paper.TrainingConfig(epochs=2, batch_size=100, learning_rate=1e-2, warmup_steps=2, half_life=60)
    store = tmp_path_factory.mktemp("runs")
    return lg.paper.Study("pbmc68k_counts", "counts", seeds=2, decoders=2, training=config, store=store)
