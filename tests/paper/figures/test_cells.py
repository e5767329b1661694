import numpy as np

from latentgeo.adapters.model import latent_model
from latentgeo.paper.data.cells import all_cells
from latentgeo.paper.figures.cells import LatentView, MirroredMatrix, cell_atlas, cell_planes


def test_figures_of_cells(trained, counts):
    cells, labels = all_cells(counts)
    views = [LatentView.of(f"model {s}", trained.trained(s), cells, [(0, 1), (2, 3)], steps=6) for s in (0, 1)]
    nearest = (
        latent_model(trained.trained(0)).points(cells[[0, 2, 1, 3]], others=trained.trained(0).encode(cells)).codes
    )
    assert np.allclose(views[0].sides[:, [0, -1]], nearest.unflatten(0, (2, 2)).transpose(0, 1))
    n = len(counts.class_names)
    upper = np.arange(float(n * n)).reshape(n, n)
    matrix = MirroredMatrix("distance", upper, upper.T + 100, ("one", "two"), "latent units")
    figure = cell_atlas(views, labels.numpy(), counts.class_names, counts.class_colours, [matrix] * 3)
    panels = [ax for part in figure.subfigs for ax in part.axes]
    shown = next(ax for ax in panels if ax.images).images[0].get_array()
    assert shown[0, 1] == upper[0, 1]  # above the diagonal the one
    assert shown[1, 0] == (upper.T + 100)[1, 0]  # below it the other
    codes = [view.codes for view in views]
    names = [str(k) for k in range(n)]
    planes = cell_planes(
        {"PBMC": codes}, {"PBMC": labels.numpy()}, {"PBMC": names}, {"PBMC": list(counts.class_colours)}
    )
    assert len(planes.axes) == 2
