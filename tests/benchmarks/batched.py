"""Does training several seeds as one stacked model pay? Against one seed after another, with the quick presets.

    python -m tests.benchmarks.batched one_thread two_threads processes

prints one table for each part named. Times are for one epoch of all S seeds on a subset of the images, the least of
several interleaved repeats. On a machine that does other things, only processor time on one thread says much; the other
two parts measure wall time and need two idle cores. The part `cuda` runs where it is named: it needs a GPU.
"""

import argparse
import dataclasses
import multiprocessing
import os
import time

import pandas as pd
import torch

import latentgeo as lg
from latentgeo.models.batched import train_seeds

IMAGES = {("digits", "mlp"): 1152, ("fashion_mnist", "mlp"): 2560, ("fashion_mnist", "conv"): 512}
SEEDS = (2, 4)
REPEATS = 3


def _training(dataset, architecture, seeds, together, device="cpu"):
    """A function that trains these seeds for two epochs and times the second: wall and processor seconds."""
    data, count = lg.load_dataset(dataset), IMAGES[dataset, architecture]
    images, validation = data.train[:count].to(device), data.validation[:256].to(device)
    study = lg.Study(dataset, architecture)
    config = dataclasses.replace(study.training, epochs=2)

    def models():
        sizes = (data.event_shape, study.latent_dim, study.decoders)
        options = {"noise": study.config(0).noise, "activation": study.activation}
        return [lg.build_vae(architecture, *sizes, seed=seed, **options).to(device) for seed in seeds]

    def run():
        marks = [[], []]

        def mark(row, _):
            marks[row["epoch"]].append((time.perf_counter(), time.process_time()))

        def second_epoch():
            (began,), (ended,) = marks[0][-1:], marks[1][-1:]
            return torch.tensor([later - earlier for earlier, later in zip(began, ended, strict=True)])

        if together:
            train_seeds(models(), images, validation, config, seeds=seeds, on_epoch=mark)
            return second_epoch().tolist()
        total = torch.zeros(2)
        for model, seed in zip(models(), seeds, strict=True):
            lg.train(model, images, validation, config, seed=seed, on_epoch=mark)
            total += second_epoch()
        return total.tolist()

    return run


def _least(runs):
    """Least wall and processor time of each of some functions, called in turn."""
    times = [[run() for run in runs] for _ in range(REPEATS)]
    return [tuple(min(row[i][kind] for row in times) for kind in (0, 1)) for i in range(len(runs))]


def one_thread():
    """One thread: processor seconds of S seeds one after another and batched."""
    torch.set_num_threads(1)
    rows = []
    for dataset, architecture in IMAGES:
        for count in SEEDS:
            runs = [_training(dataset, architecture, range(count), together) for together in (False, True)]
            (_, separate), (_, batched) = _least(runs)
            rows.append((dataset, architecture, count, separate, batched, separate / batched))
    return pd.DataFrame(rows, columns=["dataset", "architecture", "S", "one by one, s", "batched, s", "gain"])


def two_threads():
    """Two threads: wall seconds of S seeds batched, and of half of S one by one on one thread."""
    rows = []
    for dataset, architecture in IMAGES:
        for count in SEEDS:
            torch.set_num_threads(1)
            ((half, _),) = _least([_training(dataset, architecture, range(count // 2), False)])
            torch.set_num_threads(2)
            ((wall, processor),) = _least([_training(dataset, architecture, range(count), True)])
            torch.set_num_threads(1)
            rows.append((dataset, architecture, count, half, wall, processor, half / wall))
    columns = ["dataset", "architecture", "S", "half of S one by one, s", "batched, s", "batched, processor s", "gain"]
    return pd.DataFrame(rows, columns=columns)


def _worker(barrier, results, dataset, architecture, seeds, together):
    torch.set_num_threads(1)
    run = _training(dataset, architecture, seeds, together)
    for _ in range(REPEATS):
        barrier.wait()
        results.put(run()[0])
        barrier.wait()


def processes():
    """Two processes of one thread, S / 2 seeds each, at the same time: wall seconds one by one and batched."""
    context, rows = multiprocessing.get_context("spawn"), []
    for dataset, architecture in IMAGES:
        for count in SEEDS:
            seconds = []
            for together in (False, True):
                barrier, results = context.Barrier(2), context.Queue()
                halves = range(count // 2), range(count // 2, count)
                shared = (barrier, results, dataset, architecture)
                workers = [
                    context.Process(target=_worker, args=(*shared, half, together), daemon=True) for half in halves
                ]
                for worker in workers:
                    worker.start()
                times = [results.get(timeout=300) for _ in range(2 * REPEATS)]
                for worker in workers:
                    worker.join()
                seconds.append(min(max(pair) for pair in zip(times[::2], times[1::2], strict=True)))
            rows.append((dataset, architecture, count, *seconds, seconds[0] / seconds[1]))
    return pd.DataFrame(rows, columns=["dataset", "architecture", "S", "one by one, s", "batched, s", "gain"])


def cuda():
    """One GPU: wall seconds of S seeds one after another and batched."""
    rows = []
    for dataset, architecture in IMAGES:
        for count in (2, 4, 8, 16):
            runs = [_training(dataset, architecture, range(count), together, "cuda") for together in (False, True)]
            (separate, _), (batched, _) = _least(runs)
            rows.append((dataset, architecture, count, separate, batched, separate / batched))
    return pd.DataFrame(rows, columns=["dataset", "architecture", "S", "one by one, s", "batched, s", "gain"])


if __name__ == "__main__":
    parts = {part.__name__: part for part in (one_thread, two_threads, processes, cuda)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(parts)}; the first three by default")
    for name in parser.parse_args().parts or list(parts)[:3]:
        print(f"# {parts[name].__doc__} Load before: {os.getloadavg()[0]:.1f}", flush=True)
        began = time.perf_counter()
        print(parts[name]().to_string(index=False, float_format="{:.3g}".format))
        print(f"{time.perf_counter() - began:.0f} s", flush=True)
