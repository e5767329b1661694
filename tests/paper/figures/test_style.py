import latentgeo as lg
from latentgeo.paper import figures


def test_the_same_figure_is_the_same_file(table, tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTGEO_FIGURES", str(tmp_path))
    figure = figures.cv_histogram(lg.coefficient_of_variation(table), 2, "digits")
    figures.save(figure, "cv", [])
    before = (tmp_path / "cv.pdf").read_bytes()
    figures.save(figure, "cv", [])
    assert (tmp_path / "cv.pdf").read_bytes() == before
