"""The explorer without a browser: what a click computes, what is shown where nothing can be clicked."""

import base64
import json
import pydoc
import subprocess
import sys
import warnings
from importlib.resources import files
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from torch import nn

import latentgeo as lg
from latentgeo import extras
from latentgeo.explorer import explore
from latentgeo.explorer import explorer as module
from latentgeo.geometry.geodesic import certificate
from latentgeo.progress import shown
from tests.surfaces import hill, ring

VIEW = "application/vnd.jupyter.widget-view+json"


def _images(d=2, decoders=1, n=40, seed=0):
    """An untrained VAE of small images, and images with three classes."""
    random = torch.Generator().manual_seed(seed)
    return lg.paper.build_vae("mlp", (1, 6, 6), d, decoders, seed=seed).eval(), torch.rand(n, 1, 6, 6, generator=random)


def _features(d=2):
    """A smooth decoder of seven features, and an encoder that goes with it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = nn.Sequential(nn.Linear(d, 16), nn.Tanh(), nn.Linear(16, 7)).double().eval()
    random = torch.Generator().manual_seed(1)
    return (lambda x: x[:, :d], decoder), torch.randn(30, 7, generator=random, dtype=torch.float64)


@pytest.mark.parametrize(("d", "axes"), [(2, None), (5, None), (5, (1, 3))])
def test_a_selection_is_the_geodesic_between_the_codes(d, axes):
    model, x = _images(d, decoders=3)
    view = explore(model, x, axes=axes, points="mean", segments=8, tol=1e-3)
    found = view.select(3, 17)
    assert all("not identified" in note for *_, note in found.rows())
    codes = model.encode(x)
    expected = lg.geodesic(model.decode, codes[[3]], codes[[17]], segments=8, tol=1e-3, data=codes)
    torch.testing.assert_close(
        found.geodesic.points, expected.points, atol=1e-4, rtol=1e-3
    )  # of two starts either counts
    assert found.length == pytest.approx(expected.length.item(), rel=1e-5)
    assert found.converged == expected.converged.item()
    value = found.distances["value"]
    assert value["ambient_chord"] <= found.length * (1 + found.error) <= value["straight_line"] * (1 + 1e-3)
    assert value["euclidean"] == pytest.approx((codes[3] - codes[17]).norm().item())
    torch.testing.assert_close(found.straight[[0, -1]], codes[[3, 17]])
    # The mean of the decoders, in [0, 1], from end to end.
    mean = torch.stack([decoder(codes[[3, 17]]) for decoder in model.decoders]).mean(0).clamp(0, 1)
    torch.testing.assert_close(found.decoded[[0, -1], ..., 0], mean[:, 0])
    torch.testing.assert_close(found.decoded_straight[[0, -1], ..., 0], mean[:, 0])


def test_a_selection_is_sought_along_the_data_too():
    z = ring(12)
    found = explore((lambda x: x[:, :2], hill), hill(z)).select(0, 6)
    assert found.converged
    assert found.length < 0.95 * lg.distance(hill, z[[0]], z[[6]]).item()


def test_a_straight_line_in_a_flat_space_is_the_geodesic():
    frame = torch.linalg.qr(torch.randn(9, 2, generator=torch.Generator().manual_seed(0)).double()).Q
    x = torch.randn(20, 9, generator=torch.Generator().manual_seed(1)).double()
    view = explore((lambda x: x[:, :2], lambda z: z @ frame.mT), x)
    found = view.select(0, 1)
    euclidean = ((x[0] - x[1]) @ frame).norm().item()  # between the points of the plane that are nearest
    assert found.sure
    assert found.distances["value"].to_numpy() == pytest.approx(euclidean, rel=1e-7)
    notes = {name: note for name, *_, note in found.rows()}
    assert [name for name in notes if "not identified" in notes[name]] == ["straight latent line", "Euclidean"]
    np.testing.assert_allclose(view.background, 0.0, atol=1e-9)


def test_the_background_is_the_volume_element_and_evaluated_once():
    model, x = _features()
    calls = []

    def decoder(z):
        calls.append(len(z))
        return model[1](z)

    view = explore((model[0], decoder), x)
    calls.clear()
    background = view.background
    side = len(background)
    assert background.shape == (side, side)
    assert max(calls) == side * side
    calls.clear()
    assert view.background is background
    assert not calls
    low, high = view.window
    middle = torch.as_tensor(low + (np.array([3, 5]) + 0.5) / side * (high - low))
    assert background[5, 3] == pytest.approx(lg.volume_element(model[1], middle).log().item())


def test_in_more_dimensions_it_is_the_area_element_of_the_plane_through_the_mean():
    (encode, decoder), x = _features(4)
    view = explore((encode, decoder), x, axes=(0, 2))
    mean = view.codes.mean(0)
    assert torch.equal(view.plane.project(view.codes), view.codes[:, [0, 2]])
    point = view.plane.lift(torch.tensor([0.3, -0.4]).double())
    torch.testing.assert_close(point, torch.tensor([0.3, mean[1], -0.4, mean[3]]).double())
    G = lg.pullback_metric(decoder, point)[[0, 2]][:, [0, 2]]
    restricted = lg.volume_element(lambda s: decoder(view.plane.lift(s)), torch.tensor([[0.3, -0.4]]).double())
    assert restricted.item() == pytest.approx(torch.det(G).sqrt().item())
    assert "area element" in view.caption
    assert "through the mean" in view.caption


def test_the_most_changing_features_are_drawn_by_name():
    model, x = _features()
    names = [f"gene {k}" for k in range(7)]
    widget = explore(model, x, feature_names=names).widget
    trends = widget.answer["trends"]
    assert len(trends) == 6
    assert {trend["name"] for trend in trends} < set(names)
    spread = [max(np.ptp(values) for values in trend["values"]) for trend in trends]
    assert spread == sorted(spread, reverse=True)


def test_what_is_not_finite_leaves_a_gap_in_what_is_drawn():
    (encode, decoder), x = _features()
    view = explore(
        (encode, lambda z: torch.cat([decoder(z), 1.0 / z[:, :1].sign().clamp_min(0.0)], 1)), x, points="mean"
    )
    left, right = view.codes[:, 0].argmin().item(), view.codes[:, 0].argmax().item()
    widget = view.widget
    widget.selected = [left, right]
    values = [value for trend in widget.answer["trends"] for curve in trend["values"] for value in curve]
    assert json.dumps(values, allow_nan=False)


def test_ends_that_were_not_found_are_not_said_to_be(monkeypatch):
    model, x = _features()
    view = explore(model, x)
    found = view.select(6, 7)
    assert found.converged
    points = view.model.points

    def lost(self, *args, **options):
        return points(*args, **options)._replace(converged=torch.tensor([True, False]))

    monkeypatch.setattr(type(view.model), "points", lost)
    found = view.select(6, 7)
    assert not found.converged
    assert "the point of an end was not found" in found.rows()[0][3]


def test_the_first_two_points_are_medoids_of_different_classes():
    model, x = _images()
    view = explore(model, x, labels=np.arange(40) % 3, class_names=["a", "b", "c"])
    i, j = view.default_pair
    assert i % 3 != j % 3
    for row in (i, j):
        own = view.codes[row % 3 :: 3]
        assert torch.cdist(own, own).sum(1).argmin() == row // 3
    assert view.classes.name(4) == "4 (b)"


def test_medoids_of_the_same_image_are_two_points_all_the_same():
    view = explore((lambda x: x[:, :2], lambda z: 0.0 * z), torch.randn(9, 5), labels=[0, 1, 0] * 3, points="mean")
    i, j = view.default_pair
    assert {i % 3 == 1, j % 3 == 1} == {True, False}


def test_two_clicks_answer_and_a_third_starts_again():
    model, x = _images()
    view = explore(model, x)
    widget = view.widget
    first = widget.answer
    assert first["pair"] == list(view.default_pair) == widget.selected
    widget.selected = [5]
    assert widget.answer is first
    widget.selected = [5, 9]
    assert widget.answer["pair"] == [5, 9]
    expected = view.select(5, 9)
    assert widget.answer["rows"] == expected.rows()
    np.testing.assert_allclose(widget.answer["curves"][0], view.plane.project(expected.geodesic.points[0]), rtol=1e-6)
    count, height, width, channels = widget.answer["shape"]
    assert (count, height, width, channels) == (9 + 2, 6, 6, 1)  # between the originals
    strips = np.frombuffer(widget.answer["strips"], "u1").reshape(2, count, height, width)
    for strip in strips:
        np.testing.assert_array_equal(strip[[0, -1]], (255 * x[[5, 9], 0]).round().to(torch.uint8))
    widget.selected = [5, 99]
    assert "rows of the data from 0 to 39" in widget.answer["error"]


def test_a_scene_has_what_the_view_reads():
    model, x = _images(d=3)
    view = explore(model, x, labels=["even", "odd"] * 20)
    scene = view.widget.scene
    np.testing.assert_array_equal(np.frombuffer(scene["places"], "<f4").reshape(-1, 2), view.places)
    assert np.frombuffer(scene["rows"], "<i4").tolist() == list(range(40))
    assert [kind["name"] for kind in scene["classes"]] == ["even", "odd"]
    assert len(scene["shade"]) == scene["side"] ** 2
    assert scene["axes"] == ["principal axis 1", "principal axis 2"]


def test_other_axes_are_shown_without_solving_anew():
    model, x = _images(d=3)
    view = explore(model, x)
    widget = view.widget
    assert widget.scene["menu"][:3] == ["z_1", "z_2", "z_3"]
    assert widget.axes == [3, 4]
    widget.selected = [5, 9]
    rows = widget.answer["rows"]
    for axes, principal in (([2, 0], False), ([3, 5], True)):
        widget.axes = axes
        assert widget.scene["axes"] == [widget.scene["menu"][k] for k in axes]
        places = np.frombuffer(widget.scene["places"], "<f4").reshape(-1, 2)
        if principal:
            centred = (view.codes - view.codes.mean(0)).numpy()
            turned = np.abs(centred @ np.linalg.svd(centred, full_matrices=False)[2].T)
            np.testing.assert_allclose(np.abs(places), turned[:, [0, 2]], atol=1e-5)
        else:
            np.testing.assert_allclose(places, view.codes[:, axes], atol=1e-6)
        assert widget.answer["rows"] == rows
        found = view.select(5, 9).geodesic.points[0]
        np.testing.assert_allclose(widget.answer["curves"][0], widget._explorer.plane.project(found), atol=1e-5)
    assert view.plane.shown == (3, 4)  # the picture stays as it was asked for


def test_a_point_is_shown_as_its_datum():
    (encode, decode), x = _features()
    sent = []
    for view, expected in (
        (explore(*_images()), None),
        (explore((encode, decode), x, feature_names=list("abcdefg")), sorted(zip(x[7], "abcdefg", strict=True))[-1]),
        (explore((encode, lambda z: decode(z)[:, :3]), x, points="mean"), ()),  # which of the features, nobody said
    ):
        view.widget.send = lambda message, buffers=(): sent.append((message, buffers))
        view.widget._on_row(view.widget, {"row": 7}, [])
        if expected is None:
            message, (pixels,) = sent.pop()
            assert message == {"row": 7, "shape": [6, 6, 1]}
            np.testing.assert_array_equal(np.frombuffer(pixels, "u1"), (255 * _images()[1][7]).round().flatten())
        elif expected:
            assert sent.pop()[0]["features"][0] == (expected[1], f"{expected[0]:.3g}")
    assert sent == []


@pytest.mark.thorough
def test_every_length_has_its_unit():
    model, x = _features()
    view = explore(model, x)
    units = [unit for *_, unit, _ in view.select(6, 7).rows()]
    assert units == ["data units"] * 3 + ["latent units"]
    assert "data units (±" in view.describe(view.select(6, 7))
    counts = explore((model[0], lg.fisher_rao(model[1], "poisson", log=True)), x.exp().round(), points="mean")
    assert counts.select(0, 1).unit == "standard deviations"


def test_the_bundle_has_a_picture_and_where_someone_may_click_a_widget(monkeypatch):
    model, x = _images()
    view = explore(model, x)
    still = view._repr_mimebundle_()  # nobody asked, as in a batch run
    assert set(still) == {"text/plain", "image/png"}
    assert base64.b64decode(still["image/png"]).startswith(b"\x89PNG")
    assert "converged" in still["text/plain"]
    assert "widget" not in view.__dict__
    monkeypatch.setattr(module, "clickable", lambda: True)
    assert view._repr_mimebundle_()[VIEW]["model_id"] == view.widget.model_id
    monkeypatch.setattr(module, "_installed", lambda: False)
    bundle = explore(model, x)._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "image/png"}
    assert "pip install latentgeo[explorer]" in bundle["text/plain"]
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"the widget needs ipywidgets and anywidget, .* 'latentgeo\[explorer\]'"):
        _ = explore(model, x).widget
    bundle = view._repr_mimebundle_()
    assert "image/png" not in bundle
    assert "a picture needs matplotlib and seaborn" in bundle["text/plain"]


@pytest.mark.thorough
def test_without_widgets_installed_nothing_of_them_is_imported():
    code = (
        "import sys; sys.modules.update(ipywidgets=None, anywidget=None)\n"
        "import torch; from latentgeo.explorer import explore, explorer\n"
        "assert not {'matplotlib', 'seaborn'} & set(sys.modules)\n"
        "explorer._installed = lambda: False\n"
        "view = explore((lambda x: x, lambda z: torch.sin(z)), torch.rand(9, 2))\n"
        "print(sorted(view._repr_mimebundle_()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['image/png', 'text/plain']"
    assert done.stderr == ""


def test_nothing_of_anybody_else_is_touched():
    model, x = _images(decoders=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    styles, state, data = dict(mpl.rcParams), torch.random.get_rng_state(), x.clone()
    figures = mpl._pylab_helpers.Gcf.get_num_fig_managers()
    view = explore(model, x)
    view._repr_mimebundle_()
    view.widget.selected = [1, 2]
    assert dict(mpl.rcParams) == styles
    assert mpl._pylab_helpers.Gcf.get_num_fig_managers() == figures
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(x, data)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not model.training


@pytest.mark.thorough
def test_failure_is_shown_without_a_warning(monkeypatch):
    model, x = _features()
    monkeypatch.setattr(certificate, "MAX_ERROR", 0.0)
    view = explore(model, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = view.select(0, 1)
    assert not found.converged
    assert "not converged" in found.rows()[0][3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": [0, 1]}, "one label for each of the 40 points"),
        ({"labels": np.linspace(0, 1, 40)}, "bins"),
        ({"labels": range(40)}, "at most 30 classes"),
        ({"labels": [1] * 40, "class_names": ["a"]}, "class_names"),
        ({"axes": (0, 0)}, "two different coordinates"),
        ({"axes": "umap"}, "'pca'"),
        ({"kind": "audio"}, "expected one of auto, images, features"),
        ({"feature_names": ["a"]}, "expected none for images"),
        ({"kind": "features", "feature_names": ["a"]}, "expected 36 names"),
        ({"kind": "images", "show": lambda z: z}, "show=lambda z"),
        ({"show": lambda z: z.reshape(len(z), 1, 1, 2).expand(-1, 4, 5, 2)}, "kind='features'"),
        ({"show": lambda z: z[0]}, r"B = 2"),
        ({"segments": 7}, "even number"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    model, x = _images()
    with pytest.raises(ValueError, match=message):
        explore(model, x, **options)


def test_rows_and_dimensions_that_do_not_exist_are_refused():
    model, x = _images()
    view = explore(model, x)
    with pytest.raises(IndexError, match="from 0 to 39"):
        view.select(0, 40)
    with pytest.raises(ValueError, match="two different points"):
        view.select(3, 3)
    with pytest.raises(ValueError, match="at least two latent dimensions"):
        explore(_images(d=1)[0], x)
    with pytest.raises(ValueError, match="at least two rows"):
        explore(model, x[:1])


def test_data_come_in_the_models_type_or_say_what_they_are():
    model, x = _images()
    found = explore(model, x.double().numpy(), segments=8, tol=1e-3).select(3, 17)
    assert torch.equal(found.geodesic.points, explore(model, x, segments=8, tol=1e-3).select(3, 17).geodesic.points)
    with pytest.raises(TypeError, match="expected a tensor, an array, a table or an AnnData"):
        explore(model, SimpleNamespace(X=x))
    with pytest.raises(ValueError, match="could not decode latent points"):
        explore((model.encode, nn.Linear(5, 36)), x)


@pytest.mark.thorough
def test_cells_come_as_anndata_with_the_names_of_their_genes():
    anndata = pytest.importorskip("anndata")
    model, x = _features()
    genes = [f"gene {k}" for k in range(7)]
    adata = anndata.AnnData(x.numpy(), var={"gene": genes})
    adata.var_names = genes
    view = explore(model, adata)
    assert view.pictures.names == genes
    assert torch.equal(view.select(3, 17).geodesic.points, explore(model, x).select(3, 17).geodesic.points)
    other = explore(model, adata, feature_names=list("abcdefg"))
    assert other.pictures.names == list("abcdefg")
    with pytest.raises(ValueError, match=r"an AnnData with \.X"):
        explore(model, anndata.AnnData(obs=adata.obs))
    assert view._datum(7)[0] == (genes[int(x[7].argmax())], pytest.approx(x[7].max().item()))

    def encode(cells):
        return torch.as_tensor(cells.X)[:, :2].double()

    encode.takes_anndata = True
    whole = explore((encode, lambda z: model[1](z)[:, :4]), adata, points="mean")
    assert whole._datum(7) == view._datum(7)
    assert whole.select(0, 1).originals is None  # nobody said what of a cell is decoded
    halves = explore((model[0], lambda z: model[1](z)[:, :4]), adata, points="mean")  # which genes, it does not say
    assert halves.pictures.names == [f"feature {k}" for k in range(4)]


def test_of_a_likelihood_the_mean_is_drawn():
    (encode, decoder), x = _features()
    view = explore((encode, lg.fisher_rao(lambda z: decoder(z), "poisson", log=True)), x.exp().round(), points="mean")
    z = view.codes[:4]
    torch.testing.assert_close(view.pictures(z).double(), decoder(z).exp().detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("shape", "channels"), [((36,), 1), ((6, 6), 1), ((3, 6, 6), 3), ((6, 6, 3), 3)])
def test_images_of_every_layout_are_seen_as_such(shape, channels):
    D = int(np.prod(shape))
    weight = torch.randn(2, D, generator=torch.Generator().manual_seed(0))
    data = torch.rand(9, *((6, 6) if shape == (36,) else shape))  # flat ones take the shape of the data
    view = explore((lambda x: x.flatten(1)[:, :2], lambda z: (z @ weight).reshape(-1, *shape)), data)
    assert view.pictures.kind == "images"
    assert view.select(0, 1).decoded.shape == (17, 6, 6, channels)
    view.figure()


def test_the_browsers_part_is_in_the_package():
    for name in ("explorer.js", "explorer.css"):
        assert files("latentgeo.explorer").joinpath(name).is_file()
    script = files("latentgeo.explorer").joinpath("explorer.js").read_text("utf-8")
    assert "http" not in script.replace("http://www.w3.org/2000/svg", "")  # nothing comes from elsewhere


@pytest.mark.parametrize(("asked", "expected"), [({"allow_stdin": True}, True), ({"allow_stdin": False}, False)])
def test_whoever_takes_no_input_gets_no_widget(monkeypatch, asked, expected):
    kernel = SimpleNamespace(get_parent=lambda channel: {"content": asked})
    shell = SimpleNamespace(kernel=kernel)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert module.clickable() is shown(None) is expected
    assert shown(not expected) is not expected  # as asked for
    shell.kernel = None  # a terminal
    assert not module.clickable()


@pytest.mark.slow  # starts a kernel
def test_a_notebook_run_in_batch_has_the_picture_and_no_widget():
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    code = (
        "import torch; from latentgeo.explorer import explore\n"
        "explore((lambda x: x, lambda z: torch.sin(z)), torch.rand(9, 2))"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbclient.NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
    (output,) = notebook.cells[0].outputs  # nothing on stderr either
    assert set(output["data"]) == {"text/plain", "image/png"}
    assert not notebook.metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {}).get("state")


def test_a_selection_is_printed_in_a_line(monkeypatch):
    model, x = _features()
    found = explore(model, x, points="mean").select(3, 17)
    expected = f"rows 3 and 17, geodesic {found.length:#.4g} data units ± {100 * found.error:.2g} %, converged"
    assert repr(found) == f"Selection({expected})"
    monkeypatch.setattr(certificate, "MAX_ERROR", 0.0)
    assert repr(explore(model, x, points="mean").select(3, 17)).endswith(" %, not converged)")


_LONG = "lymphocytes/CD8+/CD45RA+, naive and cytotoxic, of the donor's blood, number"


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("d", "kind", "names", "converges"),
    [
        (2, "images", ["T", "B"], True),
        (2, "images", ["T", "B"], False),
        (5, "images", [f"{_LONG} {k}" for k in range(2)], False),
        (5, "features", [f"{_LONG.replace(' ', '')}{k}" for k in range(2)], False),  # a word that no line can take
        (5, "features", [f"{_LONG} {k}" for k in range(30)], True),
    ],
)
def test_no_words_leave_the_picture(monkeypatch, d, kind, names, converges):
    if not converges:
        monkeypatch.setattr(certificate, "MAX_ERROR", 0.0)
    model, x = _images(d)
    features = [f"{_LONG} {k}" for k in range(36)] if kind == "features" else None
    view = explore(
        *(model, x), labels=np.arange(40) % len(names), class_names=names, kind=kind, feature_names=features, tol=1e-3
    )
    figure = view.figure(0, 1)
    canvas = FigureCanvasAgg(figure)
    for dpi in (72, 150):  # letters are wider where there are fewer dots
        figure.set_dpi(dpi)
        canvas.draw()
        renderer = canvas.get_renderer()
        drawn = figure.get_tightbbox(renderer)  # in inches
        assert min(drawn.x0, drawn.y0) >= 0
        assert (drawn.max <= figure.get_size_inches()).all()
        ticks = [
            label for ax in figure.axes for label in (*ax.get_xticklabels(), *ax.get_yticklabels())
        ]  # not all drawn
        texts = [text for text in figure.findobj(Text) if text.get_text() and text not in ticks]
        boxes = [text.get_window_extent(renderer) for text in texts]
        assert len(boxes) > 6
        assert all((box.min >= 0).all() and (box.max <= figure.bbox.max).all() for box in boxes)
        words = figure.subfigs[1].subfigs[1].texts
        heading, distances, caption = (text.get_window_extent(renderer) for text in words)
        assert heading.y0 > distances.y1 > distances.y0 > caption.y1
    told = " ".join(" ".join(text.get_text() for text in words).split())
    assert ("not converged: do not trust it, raise segments" in told) != converges


def test_in_a_script_a_pair_is_chosen_and_its_picture_saved(tmp_path):
    _, x = _images()
    decoder = nn.Linear(2, 36)
    model = (lambda x: x[:, :2], decoder)
    view = lg.explore(model, x.flatten(1))
    assert isinstance(view, lg.explore)
    assert view.pictures.kind == "features"
    view = lg.explore(model, x.flatten(1), show=lambda z: decoder(z).view(-1, 1, 6, 6))  # flat pixels as images
    assert view.pictures.kind == "images"
    view.figure(0, 5).savefig(tmp_path / "pair.png")
    assert (tmp_path / "pair.png").read_bytes().startswith(b"\x89PNG")
    text = pydoc.plain(pydoc.render_doc(lg.explore))
    assert all(each in text for each in ("select(self, i", "figure(self, i", "savefig"))
    assert 'figure(0, 5).savefig("pair.png")' in lg.explore.__doc__


def test_a_decoder_that_returns_distributions_is_measured_by_fisher_rao_and_drawn_by_its_mean():
    def normal(z):
        return torch.distributions.Normal(z[:, :1], z[:, 1:].exp())

    z = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.5, 0.2], [1.0, 0.4], [-1.0, 0.3]], dtype=torch.float64)
    view = lg.explore((lambda x: x, normal), z, points="mean")
    found = view.select(0, 1)  # from σ = 1 to σ = e: √2
    assert found.length == pytest.approx(2.0**0.5, rel=1e-3)
    assert found.distances.loc["ambient_chord", "value"] == pytest.approx(2.0**0.5)
    assert np.isfinite(view.background).all()
    torch.testing.assert_close(view.pictures(z), z[:, :1].float())


def test_what_is_drawn_changes_neither_codes_nor_buffers():
    x = torch.randn(12, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def lift(z):
        return torch.cat([z, z.square(), z.sin()], 1)

    view = explore((lambda x: x[:, :2].clone(), lambda z: lift(z.mul_(1.0).add_(0.5))), x, points="mean")
    assert torch.equal(view.codes, x[:, :2])
    view.select(0, 1)
    assert torch.equal(view.codes, x[:, :2])
    norm = nn.BatchNorm1d(6).double()
    with pytest.raises(ValueError, match=r"show: the module is a BatchNorm1d in training mode"):
        explore((lambda x: x[:, :2], lift), x, show=lambda z: norm(lift(z)))
    assert norm.num_batches_tracked == 0
