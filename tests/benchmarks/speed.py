"""How fast are geodesics, and how does that scale? On trained Fashion-MNIST decoders, d = 16.

    python -m tests.benchmarks.speed baseline scaling ensemble convolutional landmarks

prints one table for each part named. Times are medians within one process; errors are relative to double precision
with 64 segments. The baseline takes minutes.
"""

import argparse
import copy
import resource
import statistics
import time
import warnings

import numpy as np
import torch

import latentgeo as lg
from latentgeo.experiments.distances import draw_pairs
from latentgeo.geometry.baselines import spline_adam


def _timed(call, repeats=5):
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - began)
    return result, statistics.median(seconds)


def _peak_gib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _codes(architecture, pairs):
    model = lg.Study("fashion_mnist", architecture).trained(0)
    test = lg.load_dataset("fashion_mnist").test
    start, end = draw_pairs(len(test), pairs)
    return model, model.encode(test[start]), model.encode(test[end])


def _truth(decoder, a, b):
    precise = copy.deepcopy(decoder).double()
    return precise, lg.geodesic(precise, a.double(), b.double(), segments=64, tol=1e-10, max_iter=1000).length


def _exponent(sizes, seconds):
    return np.polyfit(np.log(sizes), np.log(seconds), 1)[0]


def baseline():
    """One decoder, 20 pairs: ours against the paper's solver run to its own stop."""
    model, a, b = _codes("mlp", 100)
    a, b, f = a[:20], b[:20], model.decoders[0]
    precise, truth = _truth(f, a, b)
    ours, our_seconds = _timed(lambda: lg.geodesic(f, a, b), 7)
    theirs, their_seconds = _timed(lambda: spline_adam(f, a, b), 1)
    our_error = (ours.length / truth - 1).abs().mean().item()
    their_error = (lg.chord_length(precise, theirs.points.double()) / truth - 1).abs().mean().item()
    print(f"ours          {our_seconds:8.3f} s  mean length error {our_error:.1e}")
    print(f"spline, Adam  {their_seconds:8.3f} s  mean length error {their_error:.1e}  ({theirs.steps} steps)")
    print(f"ratios        time {their_seconds / our_seconds:.0f}, error {their_error / our_error:.0f}")


def scaling():
    """Time against pairs, segments and decoders, with fitted exponents, and the peak memory of 10,000 pairs."""
    model, a, b = _codes("mlp", 10_000)
    f = model.decoders[0]
    sizes = [100, 300, 1000, 3000, 10_000]
    seconds = [_timed(lambda n=n: lg.geodesic(f, a[:n], b[:n]), 5 if n < 3000 else 1)[1] for n in sizes]
    print("pairs    ", *(f"{n}: {s:.2f} s" for n, s in zip(sizes, seconds, strict=True)))
    print(f"exponent  {_exponent(sizes, seconds):.2f}; peak memory of the process {_peak_gib():.2f} GiB")
    sizes = [8, 16, 32, 64]
    seconds = [_timed(lambda n=n: lg.geodesic(f, a[:100], b[:100], segments=n), 3)[1] for n in sizes]
    print("segments ", *(f"{n}: {s:.2f} s" for n, s in zip(sizes, seconds, strict=True)))
    print(f"exponent  {_exponent(sizes, seconds):.2f}")
    sizes = [1, 2, 4, 8]
    seconds = [_timed(lambda n=n: lg.geodesic(lg.Ensemble(model.decoders[:n]), a[:100], b[:100]), 3)[1] for n in sizes]
    print("decoders ", *(f"{n}: {s:.2f} s" for n, s in zip(sizes, seconds, strict=True)))
    print(f"exponent  {_exponent(sizes, seconds):.2f}")


def ensemble():
    """Eight MLP decoders, 100 pairs."""
    model, a, b = _codes("mlp", 100)
    result, seconds = _timed(lambda: lg.geodesic(model.ensemble, a, b))
    rows = result.decoder_rows / 100 / 15
    print(f"8 MLP decoders, 100 pairs: {seconds:.2f} s, {rows:.1f} passes for each node")


def convolutional():
    """The paper's convolutional decoders, 20 pairs."""
    model, a, b = _codes("conv", 100)
    for name, decoder in (("1 decoder", model.decoders[0]), ("8 decoders", model.ensemble)):
        result, seconds = _timed(lambda d=decoder: lg.geodesic(d, a[:20], b[:20]), 3)
        rows = result.decoder_rows / 20 / 15
        print(f"convolutional, {name}, 20 pairs: {seconds:.2f} s, {rows:.1f} passes for each node")


def landmarks():
    """Graph distances of 20,000 points from 100 landmarks, against exact geodesics."""
    model, _, _ = _codes("mlp", 1)
    z = model.encode(lg.load_dataset("fashion_mnist").train[:20_000])
    for neighbours in (10, 40):
        found, seconds = _timed(
            lambda k=neighbours: lg.landmark_distances(model.ensemble, z, torch.arange(100), neighbours=k), 1
        )
        others = torch.arange(1000, 1100)
        exact = lg.distance(model.ensemble, z[:100], z[others])
        excess = found[torch.arange(100), others] / exact - 1
        print(
            f"20,000 points, {neighbours} neighbours: {seconds:.0f} s, too long by {excess.median():.1%} "
            f"(median; 5-95 %: {excess.quantile(0.05):.1%} to {excess.quantile(0.95):.1%}), peak {_peak_gib():.2f} GiB"
        )


if __name__ == "__main__":
    parts = {part.__name__: part for part in (baseline, scaling, ensemble, convolutional, landmarks)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(parts)}; all by default")
    warnings.simplefilter("ignore", RuntimeWarning)
    for name in parser.parse_args().parts or parts:
        print(f"# {parts[name].__doc__}", flush=True)
        parts[name]()
