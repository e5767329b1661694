r"""How the number of decoders, and drawing them anew at each time point, change distances and their variation.

For the models of a study, with the first K of their decoders:

- ``geodesic_K``: geodesic distance under the expected metric of K decoders;
- ``draws_N``: expected length of that geodesic of all decoders when each of N + 1 time points is decoded by a member
  drawn anew, see :class:`latentgeo.geometry.ensemble.IndependentDraws`;
- ``draws_N_chords``: what is left of it without the disagreement, :math:`\sqrt{N \sum \|\Delta\mu\|^2}`;
- ``draws_N_disagreement``: the disagreement alone, :math:`\sqrt{N \sum (v_i + v_{i+1})}`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from latentgeo.experiments.config import digest
from latentgeo.experiments.data import load_dataset
from latentgeo.experiments.distances import draw_pairs
from latentgeo.experiments.runner import Job, run_jobs
from latentgeo.experiments.store import RunStore
from latentgeo.experiments.study import Study
from latentgeo.geometry.curve import resample
from latentgeo.geometry.ensemble import Ensemble, IndependentDraws
from latentgeo.geometry.geodesic import geodesic

_SCHEMA = 1  # raise it whenever the same model would give other numbers
_CHUNK = 10  # curves decoded at once


def ensemble_distances(
    study: Study,
    *,
    sizes: Sequence[int] = (1, 2, 4, 8),
    points: Sequence[int] = (16, 64, 256, 1024),
    audited: int = 20,
    workers: int | None = None,
) -> pd.DataFrame:
    """Distances of the study's pairs by the methods of this module, under each of its models.

    Args:
        study: the models, trained where they are not yet; the tables are kept beside them.
        sizes: numbers of decoders K.
        points: numbers of segments N between the time points of independent draws.
        audited: number of pairs, the first ones, whose independent draws are measured.
        workers: processes, see :func:`latentgeo.experiments.runner.run_jobs`.

    Returns:
        One row for each model, pair and method: ``seed``, ``pair``, ``method``, ``value`` (data units), ``converged``.

    Raises:
        ValueError: a size is larger than the number of decoders, or too small.
        JobsFailedError: a model failed; the others are stored.
    """
    if not sizes or min(sizes) < 1 or max(sizes) > study.decoders:
        raise ValueError(
            f"sizes: expected between 1 and the {study.decoders} decoders of the models, got {list(sizes)}"
        )
    if study.decoders < 2 or not points or min(points) < 1:
        raise ValueError(f"expected models of two decoders or more, and N ≥ 1, got {study.decoders} and {list(points)}")
    if not 1 <= audited <= study.pairs:
        raise ValueError(f"audited: expected between 1 and the {study.pairs} pairs of the study, got {audited}")
    name = f"ensembles-{digest([_SCHEMA, study.pairs, list(sizes), list(points), audited])}"
    store, dataset = RunStore(study.store), load_dataset(study.dataset)

    def found(seed: int) -> pd.DataFrame | None:
        run = store.find(study.config(seed), dataset)
        tables = [] if run is None else store.read_tables(run, name)
        return tables[0] if tables else None

    missing = [seed for seed in study.seeds if found(seed) is None]
    jobs = [
        Job(f"ensembles of seed {s}", _measure, (study, s, tuple(sizes), tuple(points), audited, name)) for s in missing
    ]
    if jobs:
        run_jobs(jobs, workers=workers, label="jobs", progress=False)
    return pd.concat([found(seed).assign(seed=seed) for seed in study.seeds], ignore_index=True)[
        ["seed", "pair", "method", "value", "converged"]
    ]


def _measure(study: Study, seed: int, sizes: tuple[int, ...], points: tuple[int, ...], audited: int, name: str) -> None:
    """Distances under one model, into the store."""
    dataset, store = load_dataset(study.dataset), RunStore(study.store)
    model = store.train(study.config(seed), dataset)
    ends = [model.encode(dataset.test[indices]) for indices in draw_pairs(len(dataset.test), study.pairs)]
    columns = {}
    for size in sizes:
        result = geodesic(Ensemble(list(model.decoders)[:size]), *ends)
        columns[f"geodesic_{size}"] = (result.length, result.converged)
    result = geodesic(model.ensemble, *(end[:audited] for end in ends))
    draws = IndependentDraws(list(model.decoders))
    for N in points:
        parts = [_draws(draws, resample(curves, N)) for curves in result.points.split(_CHUNK)]
        for part, values in zip(("", "_chords", "_disagreement"), zip(*parts, strict=True), strict=True):
            columns[f"draws_{N}{part}"] = (torch.cat(values), result.converged)
    tables = [
        pd.DataFrame({"pair": np.arange(len(value)), "method": method, "value": value.double(), "converged": converged})
        for method, (value, converged) in columns.items()
    ]
    store.write_table(store.find(study.config(seed), dataset), name, pd.concat(tables, ignore_index=True))


@torch.no_grad()
def _draws(draws: IndependentDraws, curves: torch.Tensor) -> tuple[torch.Tensor, ...]:
    chords, disagreement = draws.terms(curves)
    N = chords.shape[1]
    return draws.length(curves), (N * chords.sum(1)).sqrt(), (N * disagreement.sum(1)).sqrt()
