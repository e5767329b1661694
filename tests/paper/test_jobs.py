import atexit
import logging
import os
import signal
import subprocess
import sys
import time
import warnings

import pytest
import torch
from distributed import LocalCluster

from latentgeo.paper.jobs import Job, JobsFailedError, run_jobs

pytestmark = pytest.mark.thorough


def _square(x):
    if x < 0:
        raise ValueError(f"{x} is negative")
    return x * x, os.getpid(), torch.get_num_threads()


def _jobs(*numbers):
    return [Job(f"job {x}", _square, (x,)) for x in numbers]


@pytest.mark.parametrize("workers", [0, 2])
def test_results_come_in_the_order_of_the_jobs(workers):
    found = run_jobs(_jobs(*range(5)), workers=workers)
    assert list(found) == [f"job {x}" for x in range(5)]
    results = found.values()
    assert [square for square, _, _ in results] == [0, 1, 4, 9, 16]
    assert all(threads == 1 for _, _, threads in results)
    assert (len({pid for _, pid, _ in results} - {os.getpid()}) > 0) == (workers > 0)


@pytest.mark.slow
def test_a_cluster_beside_another_says_nothing():
    with LocalCluster(n_workers=1, processes=False), warnings.catch_warnings():  # takes the default port
        warnings.simplefilter("error")
        assert len(run_jobs(_jobs(1, 2), workers=2)) == 2


def _slow_to_end(_):
    atexit.register(time.sleep, 7.0)


@pytest.mark.slow
def test_workers_that_take_their_time_to_end_are_nobodys_business(caplog):
    run_jobs([Job(f"job {x}", _slow_to_end, (x,)) for x in range(2)], workers=2)
    assert "still alive" not in caplog.text
    assert logging.getLogger("distributed.nanny").level != logging.ERROR  # what happens while jobs run is said


_SCRIPT = """
from latentgeo.paper.jobs import Job, run_jobs
{line}
    print(run_jobs([Job("one", abs, (-1,)), Job("two", abs, (-2,))], workers={workers}))
"""


@pytest.mark.parametrize(
    ("line", "workers", "message"),
    [
        ("if True:", 2, "script.py: expected the call that starts processes under `if __name__ =="),
        ("if True:", 0, ""),
        pytest.param("if __name__ == '__main__':", 2, "", marks=pytest.mark.slow),
        ("def main():", 2, "script.py: expected the call"),
    ],
)
def test_a_script_without_a_main_guard_is_told_in_a_sentence(tmp_path, line, workers, message):
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT.format(line=line, workers=workers) + ("main()\n" if "main()" in line else ""))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert ("{'one': 1, 'two': 2}" in done.stdout) == (not message)
    if message:
        assert message in done.stderr.splitlines()[-1]
        assert len(done.stderr.splitlines()) < 20


@pytest.mark.parametrize("workers", [0, 2])
def test_a_failure_is_reported_after_the_others_have_finished(workers):
    after = [Job("later", _square, (5,), after=("job -3",)), Job("last", _square, (6,), after=("job 4",))]
    with pytest.raises(JobsFailedError, match=r"2 of 6 runs failed and 4 finished; .*ValueError: -3 is neg") as caught:
        run_jobs(_jobs(1, -3, 2, 4) + after, workers=workers)
    first, second = caught.value.failures
    assert (first.name, first.error) == ("job -3", "ValueError: -3 is negative")
    assert "in _square" in first.traceback
    assert first.traceback in caught.value.__notes__[0]  # which Python prints below the message
    assert (second.name, second.error) == ("later", "not run, as job -3 failed")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_job_waits_for_those_it_comes_after(tmp_path, workers):
    path = tmp_path / "written"
    jobs = [Job("write", _write_slowly, (path,)), Job("read", path.read_text, (), after=("write",))]
    assert run_jobs(jobs, workers=workers)["read"] == "done"


def _write_slowly(path):
    time.sleep(0.3)
    path.write_text("done")


def _die_once(path):
    if not path.exists():
        path.write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def test_a_job_whose_worker_was_killed_is_run_again(tmp_path):
    jobs = [Job("victim", _die_once, (tmp_path / "seen",)), *_jobs(2, 3)]
    results = run_jobs(jobs, workers=2)
    assert results["victim"] == "alive"
    assert results["job 3"][0] == 9


def test_the_number_of_threads_is_given_back():
    before = torch.get_num_threads()
    run_jobs(_jobs(1), workers=0)
    assert torch.get_num_threads() == before


def test_no_jobs_give_no_results():
    assert run_jobs([]) == {}


def test_jobs_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match="different names"):
        run_jobs(_jobs(1, 1), workers=0)
    with pytest.raises(ValueError, match="got 'late'"):
        run_jobs([Job("late", abs, (1,), after=("early",)), Job("early", abs, (1,))], workers=0)


def test_what_is_going_on_is_shown_where_somebody_watches(monkeypatch, capsys):
    monkeypatch.setattr("latentgeo.paper.jobs._POLL", 0.0)
    run_jobs(_jobs(1, 2), workers=0, status=lambda: "seed 0: epoch 3/12")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("latentgeo.paper.jobs.bar_options", lambda _: {"disable": False, "delay": 0.0})
    run_jobs(_jobs(1, 2), workers=0, status=lambda: "seed 0: epoch 3/12")
    assert "seed 0: epoch 3/12" in capsys.readouterr().err
