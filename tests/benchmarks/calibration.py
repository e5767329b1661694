"""Is the certificate of a geodesic true? Errors against double precision with many segments, on trained decoders.

    python -m tests.benchmarks.calibration --pairs 500 --models mlp --segments 256

prints, for one decoder and for the ensemble, how often the true relative length error is below the claimed one (or
below 1e-4) among the pairs reported as converged. The reference continues from the geodesic that was found: whether
that is the shortest of several is another question.
"""

import argparse
import copy
import time
import warnings

import pandas as pd
import torch

import latentgeo as lg
from latentgeo.experiments.distances import draw_pairs


def calibrate(decoder, a: torch.Tensor, b: torch.Tensor, segments: int, **options: float) -> dict[str, float]:
    """One row of the table: the default solver against the reference, for pairs of latent points (P, d)."""
    began = time.perf_counter()
    found = lg.geodesic(decoder, a, b, **options)
    seconds = time.perf_counter() - began
    truth = lg.geodesic(
        copy.deepcopy(decoder).double(),
        a.double(),
        b.double(),
        segments=segments,
        tol=1e-8,
        max_iter=1000,
        initial=torch.cat([a[:, None], found.points[:, 1:-1], b[:, None]], 1).double(),
    )
    error = ((found.length - truth.length) / truth.length).abs()[found.converged]
    claimed = found.error[found.converged]
    return {
        "pairs": len(a),
        "seconds": seconds,
        "evaluations": found.decoder_rows / len(a) / 15,
        "converged": found.converged.double().mean().item(),
        "covered": (error <= claimed.clamp_min(1e-4)).double().mean().item(),
        "median error": error.median().item(),
        "worst error": error.max().item(),
        "median claim": claimed.median().item(),
        "reference converged": truth.converged.double().mean().item(),
        "reference error": truth.error.max().item(),
    }


def main() -> None:
    """Print the calibration table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--models", nargs="+", default=["mlp", "conv"])
    parser.add_argument("--decoders", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--segments", type=int, default=256, help="of the reference")
    parser.add_argument("--tol", type=float, nargs="+", default=[1e-4])
    options = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)
    test = lg.load_dataset("fashion_mnist").test
    start, end = draw_pairs(len(test), options.pairs)
    for architecture in options.models:
        model = lg.Study("fashion_mnist", architecture).trained(0)
        a, b = model.encode(test[start]), model.encode(test[end])
        for count in options.decoders:
            decoder = model.decoders[0] if count == 1 else lg.Ensemble(model.decoders[:count])
            for tol in options.tol:
                row = calibrate(decoder, a, b, options.segments, tol=tol)
                table = pd.DataFrame([row], index=[f"{architecture} K={count} tol={tol:.0e}"])
                print(table.T.to_string(float_format="{:.3g}".format), flush=True)


if __name__ == "__main__":
    main()
