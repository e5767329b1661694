import os
import warnings

import pytest
import torch
from distributed import LocalCluster

from latentgeo.experiments.runner import run_jobs


def _square(x):
    if x < 0:
        raise ValueError(f"{x} is negative")
    return x * x, os.getpid(), torch.get_num_threads()


@pytest.mark.parametrize("workers", [0, 2])
def test_results_come_in_the_order_of_the_jobs(workers):
    results = run_jobs(_square, list(range(5)), workers=workers, progress=False)
    assert [square for square, _, _ in results] == [0, 1, 4, 9, 16]
    assert all(threads == 1 for _, _, threads in results)
    assert (len({pid for _, pid, _ in results} - {os.getpid()}) > 0) == (workers > 0)


def test_a_cluster_beside_another_says_nothing():
    with LocalCluster(n_workers=1, processes=False), warnings.catch_warnings():  # takes the default port
        warnings.simplefilter("error")
        assert len(run_jobs(_square, [1, 2], workers=2, progress=False)) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_a_failure_is_reported_after_the_others_have_finished(workers):
    with pytest.raises(RuntimeError, match=r"1 of 4 runs failed and 3 finished; .*ValueError: -3 is negative"):
        run_jobs(_square, [1, -3, 2, 4], workers=workers, progress=False)


def test_the_number_of_threads_is_given_back():
    before = torch.get_num_threads()
    run_jobs(_square, [1], workers=0, progress=False)
    assert torch.get_num_threads() == before


def test_no_jobs_give_no_results():
    assert run_jobs(_square, [], progress=False) == []
