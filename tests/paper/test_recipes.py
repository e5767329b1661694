import numpy as np
import pandas as pd
import pytest

from latentgeo.paper import figures
from latentgeo.paper.recipes import AXES, METHODS, compare_recipes, components, log_distances, recipes


def _drawn(within, between, R=8, S=6, P=300, seed=0):
    random = np.random.default_rng(seed)
    pairs, recipe = random.standard_normal(P), between * random.standard_normal((R, 1, P))
    return pairs + recipe + within * random.standard_normal((R, S, P))


@pytest.mark.parametrize(("within", "between"), [(0.05, 0.2), (0.2, 0.05), (0.1, 0.1)])
def test_components_are_those_that_were_put_in(within, between):
    found = components(_drawn(within, between), resamples=500)
    assert found["within"] == pytest.approx(within, rel=0.05)
    assert found["between"] == pytest.approx(between, rel=0.15)
    assert found["share"] == pytest.approx(between**2 / (between**2 + within**2), abs=0.05)
    for name in ("within", "between", "share", "transfer"):
        assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]
    assert found["models"] == 48


def test_recipes_that_do_not_differ_have_no_component_between_them():
    found = components(_drawn(0.1, 0.0), resamples=500)
    # The control: the spread of the recipes' means, uncorrected, would be taken for a component.
    uncorrected = np.sqrt(_drawn(0.1, 0.0).mean(1).var(0, ddof=1).mean())
    assert uncorrected == pytest.approx(0.1 / np.sqrt(6), rel=0.05)
    assert found["between_low"] == 0.0
    assert found["between"] < 0.3 * uncorrected < found["between_high"] < uncorrected


def test_the_mean_square_decomposition_is_that_of_a_nested_analysis_of_variance():
    y = _drawn(0.3, 0.5, R=3, S=4, P=1)[..., 0]
    grand, means = y.mean(), y.mean(1)
    ms_between = 4 * ((means - grand) ** 2).sum() / 2
    ms_within = ((y - means[:, None]) ** 2).sum() / 9
    found = components(y[..., None], resamples=10)
    assert found["within"] ** 2 == pytest.approx(ms_within)
    assert found["between"] ** 2 == pytest.approx((ms_between - ms_within) / 4)


def test_intervals_contain_the_truth_about_as_often_as_they_say():
    random, P, hits = np.random.default_rng(1), 20, {"within": 0, "between": 0}
    recipe = 0.1 * random.standard_normal((6, 1, P))
    truth = {"within": 0.05, "between": np.sqrt(recipe.var(0, ddof=1).mean())}
    for draw in range(100):
        y = recipe + 0.05 * random.standard_normal((6, 3, P))
        found = components(random.standard_normal(P) + y, resamples=200, seed=draw)
        for name, value in truth.items():
            hits[name] += found[f"{name}_low"] <= value <= found[f"{name}_high"]
    assert all(count >= 88 for count in hits.values())


def _tables(scale):
    """Distances under all recipes: every method alike, but that Euclidean ones have a scale of each recipe's own."""
    rows, names = {}, tuple(dict.fromkeys(name for of in AXES.values() for name in of))
    y = _drawn(0.05, 0.1, R=len(names), S=3, P=40)
    seed, pair = np.indices(y.shape[1:])
    for r, name in enumerate(names):
        columns = {"seed": seed.ravel(), "pair": pair.ravel(), "value": np.exp(y[r]).ravel()}
        table = pd.DataFrame(columns)
        parts = [table.assign(method=of) for of in METHODS if of != "euclidean"]
        rows[name] = pd.concat([*parts, table.assign(method="euclidean", value=table["value"] * np.exp(scale * r))])
    return rows


def test_a_scale_of_each_recipe_counts_unless_it_is_taken_out_and_the_figure_shows_both():
    compared = compare_recipes(_tables(0.5), resamples=100)
    assert set(compared.index.unique("axis")) == {"all", *AXES}
    whole, free = (compared.loc["all"].loc[of] for of in ("as it is", "free"))
    assert whole.loc["euclidean", "between"] > 0.8 > whole.loc["geodesic", "between"]
    assert free.loc["euclidean", "between"] == pytest.approx(free.loc["geodesic", "between"])
    figure = figures.recipes(compared)
    assert len(figure.axes) == 2


def test_pairs_at_no_distance_are_left_out_and_uneven_recipes_refused():
    tables = _tables(0.0)
    tables["centre"].loc[tables["centre"]["pair"] == 3, "value"] = 0.0
    assert log_distances(tables, "geodesic").shape == (len(tables), 3, 39)
    tables["conv"] = tables["conv"][tables["conv"]["seed"] < 2]
    with pytest.raises(ValueError, match="as many seeds and pairs"):
        log_distances(tables, "geodesic")
    with pytest.raises(ValueError, match="S ≥ 2"):
        components(np.zeros((3, 1, 5)))


def test_recipes_differ_in_one_choice_from_the_centre(tmp_path):
    for profile, S in {"quick": 3, "evidence": 5}.items():
        studies = recipes(profile, store=tmp_path)
        assert ("conv" in studies) == (profile != "quick")
        assert all(len(study.seeds) == S for study in studies.values())
        centre = studies["centre"].config(studies["centre"].seeds[0])
        for name, study in studies.items():
            config = study.config(study.seeds[0])
            differs = [of for of in vars(config) if getattr(config, of) != getattr(centre, of)]
            assert len(differs) == (name != "centre")
    assert set(recipes("quick", store=tmp_path)["centre"].seeds).isdisjoint(studies["centre"].seeds)
