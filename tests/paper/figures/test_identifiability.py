import pandas as pd

from latentgeo.paper import figures


def test_the_table_of_identifiability_is_drawn(saved):
    checked = pd.DataFrame(
        [
            (model, family, *row)
            for model in ("sphere", "torus")
            for family in ("twist", "warp")
            for row in [("angle", "identified", 1e-12), ("codes", "not identified", 0.0)]
        ],
        columns=["model", "family", "quantity", "kind", "difference"],
    )
    saved(figures.identifiability(checked, 1e-2))
