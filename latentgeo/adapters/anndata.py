"""Geodesic distances of cells in AnnData, where scanpy looks for them.

:func:`geodesic_neighbors` takes the place of ``scanpy.pp.neighbors``: what follows it (UMAP, Leiden, PAGA, diffusion
maps) then rests on distances that are identified, rather than on Euclidean distances of codes, which another training
run of the same model would have given differently.
"""

from __future__ import annotations

import itertools
import warnings
from typing import TYPE_CHECKING, Unpack

import numpy as np
import pandas as pd
import scipy.sparse
import scipy.sparse.csgraph
import torch
from torch import Tensor

from latentgeo.adapters.arrays import codes_of, model_or_decoder, tensor_of
from latentgeo.adapters.model import LatentModel, latent_model, takes_anndata
from latentgeo.extras import require
from latentgeo.geometry.decoder import Decoder, as_decoder
from latentgeo.geometry.geodesic.neighbours import measure, search, warn_of_uncertified
from latentgeo.geometry.geodesic.solve import Options
from latentgeo.geometry.geodesic.starts import data_graph
from latentgeo.geometry.maps import frechet_mean
from latentgeo.warn import warn

if TYPE_CHECKING:
    from anndata import AnnData

_STATISTICS = ("mean", "frechet")
_LAID_OUT = 4  # connected components that UMAP can place in a plane without a metric of its own


def _scanpy() -> object:
    require("geodesic_neighbors", "singlecell", "scanpy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations among scanpy's own dependencies
        import scanpy
    return scanpy


def _checked(adata: AnnData) -> None:
    missing = [name for name in ("X", "obs", "obsm", "obsp", "uns") if not hasattr(adata, name)]
    if missing:
        raise TypeError(f"adata: expected an anndata.AnnData, got {type(adata).__name__} without {missing[0]}")


def _codes(
    adata: AnnData, model: object, points: str, use_rep: str | None, layer: str | None, dtype: torch.dtype | None
) -> tuple[LatentModel, Tensor]:
    """The model, and the latent points (n, d) of the cells: encoded, or those in ``.obsm[use_rep]``."""
    if use_rep is not None:
        if layer is not None:
            raise ValueError(f"expected use_rep or layer, got both: the codes in .obsm[{use_rep!r}] are not encoded")
        if use_rep not in adata.obsm:
            raise ValueError(f"use_rep: expected one of {sorted(adata.obsm)} in .obsm, got {use_rep!r}")
        seen = model_or_decoder(model)
        z = tensor_of(adata.obsm[use_rep], seen, dtype)
        try:
            as_decoder(seen.decoder, z)
        except ValueError as error:
            if not isinstance(error.__cause__, RuntimeError):
                raise
            raise ValueError(
                f"use_rep: expected latent points that are encoded already, got .obsm[{use_rep!r}] of shape "
                f"{tuple(z.shape)} and type {z.dtype}, which the decoder cannot decode: {error.__cause__}. To encode "
                f".obsm[{use_rep!r}], put codes there first: adata.obsm['X_latent'] = "
                f"model.encode(torch.as_tensor(adata.obsm[{use_rep!r}])).detach().numpy(), and use_rep='X_latent'"
            ) from error
        return seen, z
    seen = latent_model(model)
    if takes_anndata(seen):
        if layer is not None:
            raise ValueError(
                f"layer: expected none, as {seen.name} encodes the layer that it was set up with, got {layer!r}"
            )
        return seen, codes_of(adata, seen, points, dtype=dtype)
    if layer is not None and layer not in adata.layers:
        raise ValueError(f"layer: expected one of {sorted(adata.layers)} in .layers, got {layer!r}")
    rows = adata.X if layer is None else adata.layers[layer]
    if rows is None:
        raise ValueError(".X: expected data to encode, got None; name a layer, or codes in .obsm by use_rep")
    return seen, codes_of(rows, seen, points, dtype=dtype)


class _Solved:
    """A neighbour search that is done already, as what scanpy calls a transformer."""

    def __init__(self, distances: scipy.sparse.csr_matrix, n_neighbors: int) -> None:
        self.distances, self.n_neighbors = distances, n_neighbors

    def get_params(self, deep: bool = True) -> dict[str, int]:
        return {"n_neighbors": self.n_neighbors}

    def fit_transform(self, codes: np.ndarray) -> scipy.sparse.csr_matrix:
        return self.distances.copy()


def geodesic_neighbors(
    adata: AnnData,
    model: object,
    *,
    n_neighbors: int = 15,
    points: str = "nearest",
    use_rep: str | None = None,
    layer: str | None = None,
    method: str = "umap",
    key_added: str | None = None,
    candidates: int | None = None,
    dtype: torch.dtype | None = None,
    random_state: int = 0,
    copy: bool = False,
    **options: Unpack[Options],
) -> AnnData | None:
    r"""Neighbour graph of cells by geodesic distance, in place of ``scanpy.pp.neighbors``.

    The neighbours are exact: pairs of cells are solved in the order of their distances in data space, which bound
    geodesic ones from below, until no other pair can matter
    (:func:`latentgeo.geometry.geodesic.neighbours.nearest_neighbours`). They, their distances and so all that is
    computed from the graph alone do not depend on the latent coordinates that a training run happened to choose. scanpy
    itself turns the distances into connectivities, through its public
    interface for neighbour searches.

    It costs far more than Euclidean neighbours. Of the 244,650 pairs of the 700 cells in scanpy's
    ``pbmc68k_reduced``, under a small autoencoder of their 50 principal components, 9,500 geodesics were solved in
    11 seconds on one thread for d = 2, and 17,600 in 21 seconds for d = 8. Most of that time went to few cells, whom
    data space bounds badly: with ``candidates=56`` it took 2 and 3 seconds, and 98 % and 95 % of the cells were
    certified, rather than 99 % and 98 %. Under SCVI of their 765 genes, with a smooth activation, it is about a minute.

    Args:
        adata: cells, shape (n, genes).
        model: what :func:`latentgeo.latent_model` takes; with ``use_rep`` also a decoder (B, d) -> (B, \*event) alone.
        n_neighbors: as scanpy counts, that is with the cell itself: each cell is joined to ``n_neighbors - 1`` others.
        points: what stands for cells that are encoded here, see :meth:`latentgeo.LatentModel.points`; distances are
            identified between ``"nearest"`` or ``"posterior"`` points, not between ``"mean"`` ones.
        use_rep: key in ``.obsm`` of latent points that are encoded already, such as ``"X_scVI"``, and taken as they
            are; by default ``.X`` is encoded. What is in ``.obsm`` is never encoded: for a model of principal
            components put codes there first, ``adata.obsm["X_latent"] =
            model.encode(torch.as_tensor(adata.obsm["X_pca"])).detach().numpy()``, and name these.
        layer: key in ``.layers`` of what to encode in place of ``.X``, such as counts. Sparse data are made dense a
            chunk of cells at a time. Models of scvi-tools take whole cells, with the layer, batch and covariates that
            they were set up with, and so no layer here.
        method: ``"umap"`` or ``"gauss"``, the weights of the graph, see ``scanpy.pp.neighbors``.
        key_added: as in scanpy: a prefix that keeps this graph beside another one.
        candidates: pairs tried for each cell at most, so that a graph comes in bounded time where decoders bend so
            much that data space bounds badly; as many as it takes by default.
        dtype: of the tensors; by default that of the model's parameters.
        random_state: recorded among the parameters; nothing here is random.
        copy: whether to return a copy in place of writing to ``adata``.
        **options: ``segments``, ``tol``, ``max_iter`` and ``chunk_size`` as for :func:`latentgeo.geodesic`, and
            ``progress``, whether to show a progress bar over the cells, by default where somebody watches; ``data``,
            see :func:`latentgeo.geometry.geodesic.neighbours.nearest_neighbours`.

    Returns:
        None, or the copy. Written are, with ``key_added`` in place of ``neighbors`` and as a prefix in ``.obsp`` if
        given:

        - ``.obsm["X_latentgeo"]`` (or ``.obsm["X_" + key_added]``): the latent points of cells that were encoded here;
        - ``.obsp["distances"]``: geodesic distances to the ``n_neighbors - 1`` nearest others, CSR, in data units; not
          symmetric, as being a neighbour is not;
        - ``.obsp["connectivities"]``: symmetric weights;
        - ``.obsp["distances_error"]``: estimated relative errors of the distances;
        - ``.obs["neighbors_certified"]``: whether no cell left out can be nearer. A pair that did not converge is left
          out, whatever its length, and whoever it might concern is not certified;
        - ``.uns["neighbors"]``: keys and parameters as scanpy's, with ``metric`` ``"geodesic"``, and ``certificate``:
          numbers of pairs solved (``pairs``) and of those that did not converge (``unconverged``), share of cells that
          are certified, and the errors' median and largest value.

        A warning counts cells that are not certified. A second one says where ``scanpy.tl.umap`` needs
        ``init_pos="random"``: its default initial layout has no geodesic metric to place more than four components.

    Raises:
        ImportError: scanpy is missing.
        TypeError, ValueError: an argument does not fit, the decoder cannot decode what ``use_rep`` names, or a cell
            has too few others at converged distances.

    Example:
        >>> geodesic_neighbors(adata, model, layer="counts")  # doctest: +SKIP
        >>> scanpy.tl.leiden(adata)  # doctest: +SKIP
        >>> scanpy.tl.umap(adata)  # doctest: +SKIP
    """
    scanpy = _scanpy()
    _checked(adata)
    n = adata.n_obs
    if not 2 <= n_neighbors <= n:
        raise ValueError(f"n_neighbors: expected between 2 and the number of cells {n}, got {n_neighbors!r}")
    adata = adata.copy() if copy else adata
    options = {"progress": None} | options
    seen, z = _codes(adata, model, points, use_rep, layer, dtype)
    found = search(seen.decoder, z, n_neighbors - 1, candidates, options)
    warn_of_uncertified(found)

    name = "neighbors" if key_added is None else key_added
    if use_rep is None:
        use_rep = "X_latentgeo" if key_added is None else f"X_{key_added}"
        adata.obsm[use_rep] = z.cpu().numpy()
    distances, errors = (_sparse(found.index, values) for values in (found.distance, found.error))
    threads = torch.get_num_threads()
    scanpy.pp.neighbors(
        adata,
        use_rep=use_rep,
        method=method,
        metric="geodesic",
        transformer=_Solved(distances, n_neighbors),
        random_state=random_state,
        key_added=key_added,
    )
    torch.set_num_threads(threads)  # numba, which scanpy calls, sets it for all of OpenMP
    entry = adata.uns[name]
    entry["params"] |= {key: value for key, value in options.items() if key in ("segments", "tol", "max_iter")}
    entry["params"] |= {} if candidates is None else {"candidates": candidates}
    entry["error_key"] = f"{entry['distances_key']}_error"
    entry["certificate"] = {
        "pairs": found.pairs,
        "unconverged": found.unconverged,
        "certified": found.certified.double().mean().item(),
        "median_error": found.error.median().item(),
        "largest_error": found.error.max().item(),
    }
    adata.obsp[entry["error_key"]] = errors
    adata.obs[f"{name}_certified"] = found.certified.cpu().numpy()
    parts, _ = scipy.sparse.csgraph.connected_components(adata.obsp[entry["connectivities_key"]], directed=False)
    if parts > _LAID_OUT:
        warn(
            f"the graph has {parts} components, which scanpy.tl.umap cannot place by a geodesic metric: call it with "
            "init_pos='random' or 'paga', or raise n_neighbors",
            UserWarning,
        )
    return adata if copy else None


def _sparse(index: Tensor, values: Tensor) -> scipy.sparse.csr_matrix:
    """Rows of k values at given columns, (n, k) each, as scanpy reads them: nearest first, zeros between twins kept."""
    n, k = index.shape
    starts = np.arange(0, n * k + 1, k)
    return scipy.sparse.csr_matrix((values.cpu().numpy().ravel(), index.cpu().numpy().ravel(), starts), shape=(n, n))


def geodesic_distances(
    adata: AnnData,
    model: object,
    groupby: str,
    *,
    statistic: str = "mean",
    members: int = 32,
    points: str = "nearest",
    use_rep: str | None = None,
    layer: str | None = None,
    key_added: str | None = None,
    dtype: torch.dtype | None = None,
    random_state: int = 0,
    **options: Unpack[Options],
) -> pd.DataFrame:
    r"""Geodesic distances between groups of cells, such as cell types.

    .. math:: D(A, B) = \frac{1}{M} \sum_{m=1}^{M} d(a_m, b_m), \qquad a_m \in A,\ b_m \in B,

    over pairs of members that are drawn at random, the same ones under every model; or the distance between the
    groups' Fréchet means. Both are identified. The distance between mean codes is not. Geodesics are also sought along
    the images of all cells, as groups may lie far apart; ``data=None`` leaves that out.

    Args:
        adata: cells, shape (n, genes).
        model: as for :func:`geodesic_neighbors`.
        groupby: column of ``.obs`` that names each cell's group; cells without one are left out.
        statistic: ``"mean"`` or ``"frechet"``.
        members: the number M of pairs of members drawn, with replacement, for each pair of groups, at least 2; for
            Fréchet means the number of cells drawn of each group at most.
        points: as for :func:`geodesic_neighbors`.
        use_rep: as for :func:`geodesic_neighbors`, latent points that are encoded already.
        layer: as for :func:`geodesic_neighbors`.
        key_added: where in ``.uns`` the result goes; ``"latentgeo_" + groupby`` by default.
        dtype: as for :func:`geodesic_neighbors`.
        random_state: seed of the draws.
        **options: as for :func:`latentgeo.geodesic`; ``progress`` as for :func:`geodesic_neighbors`.

    Returns:
        Symmetric table of distances in data units. On the diagonal stand mean distances between different members of a
        group (zero for a group of one cell), or zeros for Fréchet means. The same goes into ``.uns``, as arrays
        ``distances`` and ``names``, with ``standard_error`` of the means over pairs (or ``solver_error`` for Fréchet
        means), the number ``unconverged`` of pairs that were left out of the means, and ``params``. A warning counts
        them.

    Raises:
        TypeError, ValueError: an argument does not fit, there are no two groups, or too few pairs of two groups
            converged for a mean.
        RuntimeError: a Fréchet mean was not found.

    Example:
        >>> geodesic_distances(adata, model, "cell_type", layer="counts")  # doctest: +SKIP
    """
    _checked(adata)
    if groupby not in adata.obs:
        raise ValueError(f"groupby: expected one of {list(adata.obs)} in .obs, got {groupby!r}")
    if statistic not in _STATISTICS:
        raise ValueError(f"statistic: expected one of {', '.join(_STATISTICS)}, got {statistic!r}")
    if members < 2:
        raise ValueError(f"members: expected at least 2, got {members!r}")
    groups = adata.obs[groupby].astype("category").cat.remove_unused_categories()
    names, numbers = groups.cat.categories, groups.cat.codes.to_numpy()
    if len(names) < 2:
        raise ValueError(f"groupby: expected cells of at least two groups in .obs[{groupby!r}], got {list(names)}")
    options = {"progress": None} | options
    seen, z = _codes(adata, model, points, use_rep, layer, dtype)
    of_group = [np.flatnonzero(numbers == number) for number in range(len(names))]
    random = np.random.default_rng(random_state)
    f = as_decoder(seen.decoder, z)
    data = options.get("data", z)
    options = options | {"data": None if data is None else data_graph(f, data, z)}
    compare = _compare_members if statistic == "mean" else _compare_means
    entry = compare(f, z, of_group, members, random, options)
    if entry["unconverged"]:
        warn(
            f"{entry['unconverged']} geodesics between members of {groupby!r} did not converge and are left out of the "
            "means; raise segments or max_iter",
        )
    entry["names"] = np.array(names, dtype=str)
    entry["params"] = {"groupby": groupby, "statistic": statistic, "members": members, "random_state": random_state}
    adata.uns[f"latentgeo_{groupby}" if key_added is None else key_added] = entry
    return pd.DataFrame(entry["distances"], index=pd.Index(names, name=groupby), columns=pd.Index(names, name=groupby))


def _compare_members(
    decoder: Decoder, z: Tensor, of_group: list[np.ndarray], members: int, random: np.random.Generator, options: Options
) -> dict[str, object]:
    """Mean distances between members of groups, and standard errors of the means."""
    sizes = [len(group) for group in of_group]
    pairs = [(a, b) for a, b in itertools.combinations_with_replacement(range(len(sizes)), 2) if a != b or sizes[a] > 1]
    start, end = [], []
    for a, b in pairs:
        first = random.integers(sizes[a], size=members)
        second = random.integers(int(a == b), sizes[b], size=members)
        if a == b:  # another member of the same group
            second = (first + second) % sizes[b]
        start.append(of_group[a][first])
        end.append(of_group[b][second])
    length, *_, converged = measure(decoder, z[np.concatenate(start)], z[np.concatenate(end)], **options)
    length = length.double().cpu().numpy().reshape(-1, members)
    converged = converged.cpu().numpy().reshape(-1, members)
    if (converged.sum(1) < 2).any():
        a, b = pairs[int(converged.sum(1).argmin())]
        raise ValueError(
            f"fewer than 2 of {members} geodesics between groups number {a} and {b} converged; raise segments, "
            "max_iter or members"
        )
    distances, errors = np.zeros((2, len(sizes), len(sizes)))
    for (a, b), each, good in zip(pairs, length, converged, strict=True):
        distances[a, b] = distances[b, a] = each[good].mean()
        errors[a, b] = errors[b, a] = each[good].std(ddof=1) / np.sqrt(good.sum())
    return {"distances": distances, "standard_error": errors, "unconverged": int((~converged).sum())}


def _compare_means(
    decoder: Decoder, z: Tensor, of_group: list[np.ndarray], members: int, random: np.random.Generator, options: Options
) -> dict[str, object]:
    """Distances between Fréchet means of groups, and their errors."""
    drawn = [np.sort(random.permutation(group)[:members]) for group in of_group]
    # Its tolerance and number of iterations are the mean's own.
    of_curves = {name: value for name, value in options.items() if name not in ("tol", "max_iter")}
    means = torch.stack([frechet_mean(decoder, z[group], **of_curves) for group in drawn])
    i, j = np.triu_indices(len(means), 1)
    length, _, error, converged = measure(decoder, means[i], means[j], **options)
    if not converged.all():
        raise ValueError(
            f"{int((~converged).sum())} of {len(length)} geodesics between Fréchet means did not converge; "
            "raise segments or max_iter, or take statistic='mean'"
        )
    distances, errors = np.zeros((2, len(means), len(means)))
    distances[i, j] = distances[j, i] = length.double().cpu().numpy()
    errors[i, j] = errors[j, i] = (error * length).double().cpu().numpy()
    return {"distances": distances, "solver_error": errors, "unconverged": 0}
