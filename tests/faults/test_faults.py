"""The quick ones among the faults, and a scheduler with workers of its own."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import pandas as pd
import pytest

from tests.faults import faults

pytestmark = pytest.mark.thorough

EPOCHS = 20


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    store = tmp_path_factory.mktemp("undisturbed")
    study = faults.study(store, 2, EPOCHS)
    table = study.run(workers=0)
    return faults.weights(store, 2, EPOCHS), table


def test_a_killed_sweep_loses_nothing(undisturbed, tmp_path):
    for epochs in (EPOCHS // 2, 3 * EPOCHS // 2):
        process = faults.start(tmp_path, seeds=2, workers=0, epochs=EPOCHS)
        faults.wait_for_epochs(tmp_path, epochs, process)
        faults.kill(process)
    table = faults.study(tmp_path, 2, EPOCHS).run(workers=0)
    assert faults.weights(tmp_path, 2, EPOCHS) == undisturbed[0]
    pd.testing.assert_frame_equal(table, undisturbed[1], check_exact=True)


def test_a_disturbance_that_matters_is_noticed(undisturbed, tmp_path):
    """The negative control of the comparison: another training has other weights."""
    faults.study(tmp_path, 2, EPOCHS // 2).run(workers=0)
    assert not set(faults.weights(tmp_path, 2, EPOCHS // 2)) & set(undisturbed[0])


@contextlib.contextmanager
def _scheduler(workers, folder):
    """A Dask scheduler and workers, each a process of its own, as on a cluster."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    port = address.rsplit(":", 1)[1]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": faults.ENVIRONMENT}
    scheduler = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", port]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1"]
    commands = [[*scheduler, "--no-dashboard"], *workers * [[*worker, "--local-directory", str(folder)]]]
    processes = [subprocess.Popen(command, start_new_session=True, **quiet) for command in commands]
    try:
        yield address, processes
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


@pytest.mark.slow
def test_an_external_scheduler_gives_the_same_table(undisturbed, tmp_path, monkeypatch):
    with _scheduler(2, tmp_path) as (address, _):
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", address)
        began = time.monotonic()
        table = faults.study(tmp_path / "store", 2, EPOCHS).run()
        assert time.monotonic() - began < 120
    pd.testing.assert_frame_equal(table, undisturbed[1], check_exact=True)


@pytest.mark.slow
def test_a_sweep_of_twelve_models_on_a_scheduler_is_that_of_the_serial_mode(tmp_path, monkeypatch):
    serial = faults.study(tmp_path / "serial", 12).run(workers=0)
    with _scheduler(2, tmp_path) as (address, _):
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", address)
        spread = faults.study(tmp_path / "spread", 12).run()
    pd.testing.assert_frame_equal(spread, serial, check_exact=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in faults.SCENARIOS if name != "disk full" or os.geteuid() == 0])
def test_nothing_is_lost(name):
    row = faults.table([name]).iloc[0]
    assert row["lost"] == 0
