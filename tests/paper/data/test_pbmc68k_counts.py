import numpy as np
import pytest

import latentgeo as lg
from latentgeo.paper.data import pbmc68k_counts


def test_counts_are_those_that_the_logarithms_came_from():
    random = np.random.default_rng(0)
    counts = random.poisson(2.0, (40, 300))
    logged = np.log1p(counts * random.uniform(1.0, 5.0, (40, 1))).round(3)
    assert (pbmc68k_counts.counts_from(logged) == counts).all()
    with pytest.raises(lg.paper.DataError, match="not logarithms"):
        pbmc68k_counts.counts_from(logged + 0.05 * (logged > 0))
    logged[3] = 0
    with pytest.raises(lg.paper.DataError, match="an empty cell"):
        pbmc68k_counts.counts_from(logged)
