"""Is the certificate of a geodesic true? Errors against a far finer solution, on fifteen decoders.

    python -m tests.benchmarks.calibration --pairs 200

trains what is not in the run store, and prints for each decoder how many pairs converged, how many of these could be
judged (where the reference is known better than the claim), the median of claim over true error, how many errors were
larger than claimed, and by how much. The reference continues from the geodesic that was found: whether that is the
shortest of several is another question.
"""

import argparse
import warnings
from collections.abc import Iterator

import pandas as pd
import torch
from torch import nn

import latentgeo as lg
from latentgeo.paper.benchmark import calibration, problem

_KNOWN = 0.3  # of the claim, that the reference may be unsure by
_LEAST = 1e-7  # relative error below which a reference tells nothing
_SEGMENTS = 96
Case = tuple[str, nn.Module, torch.Tensor, torch.Tensor]


def _random(activation: type[nn.Module], seed: int, d: int, width: int, scale: float, pairs: int) -> Case:
    """Decoder with weights so many times the usual, and points of a box."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Linear(d, width), activation(), nn.Linear(width, width), activation(), nn.Linear(width, 40)
        f = nn.Sequential(*layers).double().requires_grad_(False)
        start, end = 2.0 * (2.0 * torch.rand(2, pairs, d, dtype=torch.float64) - 1.0)
    for layer in (f[0], f[2]):
        layer.weight.mul_(scale)
    return f"random {activation.__name__} × {scale:g}, d = {d}", f, start, end


def studies() -> dict[str, lg.paper.Study]:
    """Of trained models at the scale of the committed results, by name."""
    study = lg.paper.Study
    return {
        "fashion_mnist mlp": study("fashion_mnist", profile="evidence"),
        "fashion_mnist conv": study("fashion_mnist", "conv", seeds=20, profile="evidence"),
        "digits mlp": study("digits", profile="evidence"),
        "digits flow": study(
            "digits", "flow", seeds=10, profile="evidence", latent_dim=4, decoders=1, activation="tanh"
        ),
        "digits ReLU": study("digits", profile="evidence", activation="relu", decoders=1, seeds=2),
        "pbmc68k mlp": study("pbmc68k", profile="evidence"),
        "pbmc68k_counts": study("pbmc68k_counts", "counts", profile="evidence"),
        "tasic mlp": study("tasic", seeds=10, profile="evidence"),
    }


def untrained(pairs: int) -> Iterator[Case]:
    """Random decoders."""
    yield _random(nn.Tanh, 0, 2, 64, 2.5, pairs)
    yield _random(nn.Tanh, 1, 4, 64, 2.5, pairs)
    yield _random(nn.SiLU, 0, 4, 200, 3.0, pairs)
    yield _random(nn.ReLU, 0, 2, 64, 1.0, pairs)
    yield _random(nn.ReLU, 0, 4, 200, 3.0, pairs)


def cases(pairs: int) -> Iterator[Case]:
    """Name, decoder and ends of pairs."""
    trained = studies()
    for name, of in trained.items():
        yield name, *pairs_of(of, min(pairs, 20) if "conv" in name else pairs)  # those in double precision are slow
    _, start, end = pairs_of(trained["fashion_mnist mlp"], pairs)
    yield "fashion_mnist mlp, 8 decoders", lg.Ensemble(trained["fashion_mnist mlp"].trained(0).decoders), start, end
    yield "pbmc68k mlp, twisted", *twisted(pairs_of(trained["pbmc68k mlp"], pairs), lg.RadialTwist(1.0))
    yield from untrained(pairs)


def pairs_of(study: lg.paper.Study, pairs: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A problem of this many pairs, or as many as there are test data for."""
    return problem(study, min(pairs, len(study.data().test) // 2))


def twisted(
    case: tuple[nn.Module, torch.Tensor, torch.Tensor], A: nn.Module
) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    decoder, start, end = case
    return lg.reparametrise(decoder, A), A(start), A(end)


def judged(name: str, decoder: nn.Module, start: torch.Tensor, end: torch.Tensor) -> dict[str, object]:
    """One row of the table: the default solver against the reference, for pairs of latent points (P, d)."""
    table = calibration(decoder, start, end, segments=_SEGMENTS)
    known = table["reference_error"] < _KNOWN * table["claimed"].clip(lower=_LEAST)
    kept = table[table["converged"] & table["reference_converged"] & known]
    over = (kept["true"] / kept["claimed"]).where(kept["true"] > _LEAST, 0.0)
    return {
        "decoder": name,
        "smooth": "ReLU" not in name,
        "pairs": len(table),
        "converged": int(table["converged"].sum()),
        "judged": len(kept),
        "claim / true": (kept["claimed"] / kept["true"].clip(lower=_LEAST)).median(),
        "wrong": int((over > 1.0).sum()),
        "worst": over.max(),
    }


def measure(pairs: int, progress: bool = False) -> pd.DataFrame:
    """The table, one row for each decoder."""
    rows = []
    for case in cases(pairs):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            rows.append(judged(*case))
        if progress:
            print(*(f"{key}: {value}" for key, value in rows[-1].items()), sep=", ", flush=True)
    return pd.DataFrame(rows).set_index("decoder")


def main() -> None:
    """Print the calibration table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200, help="of each decoder, as far as there are data")
    table = measure(parser.parse_args().pairs, progress=True)
    print(table.round(2).to_string())
    print(f"{table['judged'].sum()} judged, {table['wrong'].sum()} wrong, at worst {table['worst'].max():.1f} times")


if __name__ == "__main__":
    main()
