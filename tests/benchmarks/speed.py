"""How fast are geodesics, and how does that scale? On trained Fashion-MNIST decoders, d = 16.

    python -m tests.benchmarks.speed baseline scaling memory ensemble convolutional

prints one table for each part named. Times are medians within one process. The baseline takes minutes; notebook 14 has
the same table of four decoders.
"""

import argparse
import resource
import warnings

import torch

import latentgeo as lg
from latentgeo.paper import benchmark
from latentgeo.paper.benchmark import timed


def _peak_gib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _codes(architecture, images):
    model = lg.paper.Study("fashion_mnist", architecture, profile="evidence").trained(0)
    return model, model.encode(lg.paper.load_dataset("fashion_mnist").test[:images])


def baseline():
    """One decoder, 20 pairs: ours against all other solvers, the paper's run to its own stop."""
    study = lg.paper.Study("fashion_mnist", "mlp", seeds=1, profile="evidence")
    table = benchmark.error_against_time(*benchmark.problem(study, 20), thorough=True)
    print(table.to_string(float_format="{:.2g}".format))


def scaling():
    """Time against P, N, d and K, with fitted exponents."""
    model, z = _codes("mlp", 2000)
    ensembles = [lg.Ensemble(list(model.decoders)[:k]) for k in (1, 2, 4, 8)]
    table = benchmark.scaling(model.decoders, z, ensembles=ensembles, repeats=5)
    print(table.to_string(float_format="{:.3g}".format))
    print(benchmark.exponents(table).to_string(float_format="{:.2f}".format))


def memory():
    """10,000 pairs, one decoder: peak memory of the process, and time against pairs."""
    model, z = _codes("mlp", 10_000)
    torch.manual_seed(0)
    before = _peak_gib()
    codes = torch.cat([z, z[torch.randperm(len(z))]])
    table = benchmark.scaling(
        model.decoders, codes, pairs=(300, 1000, 3000, 10_000), segments=(), dimensions=(), repeats=5
    )
    print(table.to_string(float_format="{:.3g}".format))
    print(f"exponent {benchmark.exponents(table)['P']:.3f}; peak {_peak_gib():.2f} GiB ({before:.2f} with data alone)")


def ensemble():
    """Eight MLP decoders, 100 pairs."""
    model, z = _codes("mlp", 2000)
    result, seconds = timed(lambda: lg.geodesic(model.decode, z[:100], z[1000:1100]))
    print(f"8 MLP decoders, 100 pairs: {seconds:.2f} s, {result.decoder_rows / 100 / 15:.1f} passes for each node")


def convolutional():
    """The paper's convolutional decoders, 20 pairs, beside the MLP's."""
    for architecture in ("mlp", "conv"):
        model, z = _codes(architecture, 2000)
        for name, decoder in (("1 decoder", model.decoders[0]), ("8 decoders", model.decode)):
            result, seconds = timed(lambda d=decoder, z=z: lg.geodesic(d, z[:20], z[1000:1020]))
            print(
                f"{architecture}, {name}, 20 pairs: {seconds:.2f} s, {result.decoder_rows / 20 / 15:.1f} passes for "
                f"each node, error claimed {result.error.median():.1e} (median), {result.error.max():.1e} (worst)"
            )


if __name__ == "__main__":
    parts = {part.__name__: part for part in (baseline, scaling, memory, ensemble, convolutional)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(parts)}; all by default")
    warnings.simplefilter("ignore", RuntimeWarning)
    for name in parser.parse_args().parts or parts:
        print(f"# {parts[name].__doc__}", flush=True)
        parts[name]()
