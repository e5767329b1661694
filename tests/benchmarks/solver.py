"""Is a geodesic the same from every start, in every chart, in any company, and how long does it take?

    python -m tests.benchmarks.solver default twists starts triangles gradients close company matrix

trains what is not in the run store, and prints the figures of each part named, all of them by default. Times are
medians within one process, on one thread but for the matrix.
"""

import argparse
import contextlib
import copy
import math
import warnings

import torch
from torch import nn

import latentgeo as lg
from latentgeo.paper.benchmark import timed
from latentgeo.paper.jobs import single_thread
from tests.benchmarks.calibration import pairs_of, studies, twisted, untrained


def _fashion(images: int) -> tuple[nn.Module, torch.Tensor]:
    """One decoder, d = 16, and codes."""
    model = lg.paper.Study("fashion_mnist", profile="evidence").trained(0)
    return model.decoders[0], model.encode(lg.paper.load_dataset("fashion_mnist").test[:images])


def _trained() -> dict[str, lg.paper.Study]:
    """Trained decoders that are fast."""
    fast = {name: of for name, of in studies().items() if "conv" not in name}
    return fast | {"digits mlp, d = 2": lg.paper.Study("digits", profile="evidence", latent_dim=2)}


def default():
    """The default call: 100 pairs, d = 16."""
    f, z = _fashion(2000)
    found, seconds = timed(lambda: lg.geodesic(f, z[:100], z[1000:1100]), repeats=9)
    print(f"{seconds:.3f} s, median error claimed {found.error.median():.1e}")


def twists():
    """Trained decoders after RadialTwist(1.0): 50 pairs, how many converge, and the decoded points for them."""
    for name, of in _trained().items():
        if "ReLU" in name:
            continue
        case = pairs_of(of, 50)
        plain, turned = (lg.geodesic(*of) for of in (case, twisted(case, lg.RadialTwist(1.0))))
        both = plain.converged & turned.converged
        apart = (plain.length / turned.length - 1.0).abs() > plain.error + turned.error
        print(
            f"{name}: {plain.converged.double().mean():.0%} converge, twisted {turned.converged.double().mean():.0%}; "
            f"{turned.decoder_rows / plain.decoder_rows:.2f} times the rows; {int((both & apart).sum())} further apart "
            "than both claim"
        )


def starts():
    """Four bent starts beside the straight line, 40 pairs of each decoder: worse than the straight line alone?"""
    cases = [(name, *pairs_of(of, 40)) for name, of in _trained().items()] + list(untrained(40))
    total = worse = 0
    for name, f, a, b in cases:
        random, t = torch.Generator().manual_seed(0), torch.linspace(0.0, 1.0, 17, dtype=a.dtype)[None, :, None]
        size = 0.5 * (b - a).norm(dim=1)[:, None, None] / math.sqrt(a.shape[1])
        bent: list[torch.Tensor | None] = [None]
        for _ in range(4):
            bend = size * torch.randn(len(a), 1, a.shape[1], generator=random, dtype=torch.float64).to(a)
            curve = torch.lerp(a[:, None], b[:, None], t) + torch.sin(math.pi * t) * bend
            curve[:, 0], curve[:, -1] = a, b
            bent.append(curve)
        alone, several = lg.geodesic(f, a, b), lg.geodesic(f, a, b, initial=bent)
        longer = several.length / alone.length - 1.0 > alone.error + several.error
        lost = int((alone.converged & ~several.converged).sum())
        found = int((longer & alone.converged).sum())
        total, worse = total + len(a), worse + found + lost
        print(f"{name}: {found} longer, {lost} no longer converged, of {len(a)}")
    print(f"worse: {worse} of {total}")


def triangles():
    """Ordered triples of certified distances of 80 digits, d = 2, that break the triangle inequality by 0.1 %."""
    study = lg.paper.Study("digits", profile="evidence", latent_dim=2)
    model = copy.deepcopy(study.trained(0)).double()
    z = model.encode(study.data().test[:80].double())
    D, error = lg.distance_matrix(model.decode, z, with_error=True)
    sound, worst, broken, triples = torch.isfinite(error), 0.0, 0, 0
    for k in range(len(D)):
        way, known = D[:, k, None] + D[k], sound[:, k, None] & sound[k] & sound
        over = (D / way - 1.0).masked_fill(~known, 0.0).fill_diagonal_(0.0)
        over[k], over[:, k] = 0.0, 0.0
        broken, triples = broken + int((over > 1e-3).sum()), triples + int(known.sum())
        worst = max(worst, over.max().item())
    print(f"{broken} of {triples}; at worst {worst:.1e}; {sound.double().mean():.1%} of the pairs converge")


def gradients():
    """Gradients of `distance` by its ends, 40 pairs of each decoder, against those by 64 segments in double precision.

    Errors are in the norm of the metric at the ends, in which a gradient has length one.
    """
    for name, of in _trained().items():
        if "ReLU" in name:
            continue
        f, *ends = pairs_of(of, 40)
        g, *exact = (copy.deepcopy(f).double(), *(z.double() for z in ends))
        metric = torch.stack([lg.pullback_metric(g, z) for z in exact], 1)  # [P, 2, d, d]
        slopes = []
        for h, at, options in ((f, ends, {}), (g, exact, {"segments": 64, "tol": 1e-8})):
            z = [end.clone().requires_grad_() for end in at]
            lg.distance(h, *z, **options).sum().backward()
            slopes.append(torch.stack([end.grad.double() for end in z], 1))  # [P, 2, d]
        certain = lg.geodesic(f, *ends, tol=1e-6)  # as `distance` solves in single precision
        kept = certain.converged & lg.geodesic(g, *exact, segments=64, tol=1e-8).converged
        off = (slopes[0] - slopes[1])[kept]
        error = (off * torch.linalg.solve(metric[kept], off)).sum(2).clamp_min(0.0).sqrt().amax(1)
        stated = (2.0 * certain.error[kept].double()).sqrt()
        print(
            f"{name}: median error {error.median():.1e}, worst {error.max():.1e}; stated {stated.median():.1e}, "
            f"{stated.max():.1e}; {int((error > stated).sum())} of {len(error)} beyond what is stated, the largest "
            f"{(error / stated).max():.2f} times that"
        )


def close():
    """A hundred pairs of close points in single precision, random tanh decoder, d = 8."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        f = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64)).requires_grad_(False)
        a, way = torch.randn(2, 100, 8)
    for apart in (1e-3, 1e-4, 1e-5):
        b = a + apart * way / way.norm(dim=1, keepdim=True)
        found, seconds = timed(lambda b=b: lg.geodesic(f, a, b))
        truth = lg.geodesic(copy.deepcopy(f).double(), a.double(), b.double()).length
        wrong = found.converged & ((found.length / truth - 1.0).abs() > found.error)
        print(f"{apart:.0e} apart: {seconds:.2f} s, {int(found.converged.sum())} converge, {int(wrong.sum())} wrong")


def company():
    """Largest relative change of a pair's length alone, in another order and in other chunks."""
    f, z = _fashion(1050)
    for dtype in (torch.float32, torch.float64):
        g, a, b = copy.deepcopy(f).to(dtype), z[:50].to(dtype), z[1000:].to(dtype)
        whole, order = lg.geodesic(g, a, b).length, torch.randperm(50, generator=torch.Generator().manual_seed(0))
        alone = torch.cat([lg.geodesic(g, a[k : k + 1], b[k : k + 1]).length for k in range(0, 50, 5)])
        changes = {
            "alone": alone / whole[::5],
            "in another order": lg.geodesic(g, a[order], b[order]).length / whole[order],
            "in chunks of seven": lg.geodesic(g, a, b, chunk_size=7).length / whole,
        }
        print(dtype, ", ".join(f"{name} {(of - 1.0).abs().max():.0e}" for name, of in changes.items()))


def matrix():
    """`distance_matrix` of 300 points, d = 16, by as many threads as PyTorch has."""
    f, z = _fashion(300)
    lg.distance_matrix(f, z[:20], progress=False)
    (_, error), seconds = timed(lambda: lg.distance_matrix(f, z, with_error=True, progress=False), repeats=1)
    print(f"{seconds:.1f} s by {torch.get_num_threads()} threads, {torch.isfinite(error).double().mean():.1%} converge")


if __name__ == "__main__":
    parts = {part.__name__: part for part in (default, twists, starts, triangles, gradients, close, company, matrix)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(parts)}; all by default")
    warnings.simplefilter("ignore", RuntimeWarning)
    chosen = parser.parse_args().parts or list(parts)
    if not parts.keys() >= set(chosen):
        parser.error(f"expected parts among {', '.join(parts)}, got {', '.join(chosen)}")
    for name in chosen:
        print(f"# {parts[name].__doc__}", flush=True)
        with contextlib.nullcontext() if name == "matrix" else single_thread():
            parts[name]()
