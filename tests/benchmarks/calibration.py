"""Is the certificate of a geodesic true? Errors against a far finer solution, on trained decoders.

    python -m tests.benchmarks.calibration --pairs 500 --models mlp --segments 256
    python -m tests.benchmarks.calibration --pairs 500 --models conv --segments 64 --precision float32

prints, for one decoder and for the ensemble, how often the true relative length error is below the claimed one (or
below 1e-4) among the pairs reported as converged. The reference continues from the geodesic that was found: whether
that is the shortest of several is another question. Convolutions in double precision take ten times as long; single
precision and 64 extrapolated segments know their lengths to about 1e-5, which is enough to judge errors of 1e-4.
"""

import argparse
import time
import warnings

import pandas as pd
import torch

import latentgeo as lg
from latentgeo.agreement.pairs import draw_pairs
from latentgeo.paper.benchmark import calibration, coverage


def calibrate(decoder, a: torch.Tensor, b: torch.Tensor, **options: object) -> dict[str, float]:
    """One row of the table: the default solver against the reference, for pairs of latent points (P, d)."""
    began = time.perf_counter()
    table = calibration(decoder, a, b, **options)
    kept = table[table["converged"]]
    return {
        "pairs": len(table),
        "seconds": time.perf_counter() - began,
        "evaluations": table["evaluations"].iloc[0],
        "converged": table["converged"].mean(),
        "covered": coverage(table),
        "median error": kept["true"].median(),
        "worst error": kept["true"].max(),
        "worst error / claim": (kept["true"] / kept["claimed"]).max(),
        "median claim": kept["claimed"].median(),
        "reference converged": table["reference_converged"].mean(),
        "reference error": table["reference_error"].median(),
        "worst reference error": table["reference_error"].max(),
    }


def main() -> None:
    """Print the calibration table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--models", nargs="+", default=["mlp", "conv"])
    parser.add_argument("--decoders", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--segments", type=int, default=256, help="of the reference")
    parser.add_argument("--precision", choices=["float32", "float64"], default="float64", help="of the reference")
    parser.add_argument("--tol", type=float, nargs="+", default=[1e-4])
    options = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)
    test = lg.paper.load_dataset("fashion_mnist").test
    start, end = draw_pairs(len(test), options.pairs)
    for architecture in options.models:
        model = lg.paper.Study("fashion_mnist", architecture).trained(0)
        a, b = model.encode(test[start]), model.encode(test[end])
        for count in options.decoders:
            decoder = model.decoders[0] if count == 1 else lg.Ensemble(model.decoders[:count])
            for tol in options.tol:
                settings = {"segments": options.segments, "precision": getattr(torch, options.precision)}
                row = calibrate(decoder, a, b, **settings, tol=tol)
                table = pd.DataFrame([row], index=[f"{architecture} K={count} tol={tol:.0e}"])
                print(table.T.to_string(float_format="{:.3g}".format), flush=True)


if __name__ == "__main__":
    main()
