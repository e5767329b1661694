"""Notebooks in JupyterLab, as a reader opens, runs and clicks them; no part of `make test`, its name is not collected.

    make e2e

starts JupyterLab on this machine with a copy of the notebooks, drives Chromium, and leaves screenshots in build/e2e.
Which notebooks: those of ``NOTEBOOKS``, and a small one written here.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest
from playwright.sync_api import Page, expect

from latentgeo.paper.paths import project_root

NOTEBOOKS = ("00_start_here", "15_your_own_model")
PATIENCE = 1_800_000  # milliseconds that a notebook may take, trainings included
ANSWER = 1.0  # seconds that the answer to two clicks may take
PICTURES = project_root() / "build" / "e2e"
# What differs from a fresh JupyterLab: all cells are in the page, also those out of sight; it does not ask for news.
SETTINGS = {
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
SMALL = {
    "small_images": """
import torch
import latentgeo as lg
from latentgeo.explorer import explore
data = lg.paper.load_dataset("digits")
model = lg.paper.build_vae("mlp", (1, 8, 8), 2, decoders=1, seed=0, noise=0.25)
lg.paper.train(model, data.train, data.validation, lg.paper.TrainingConfig(epochs=20, learning_rate=3e-3), seed=0)
view = explore(model.eval(), data.test, labels=data.test_labels, class_names=data.class_names)
view
""",
    "small_features": """
import torch
from latentgeo.explorer import explore
x = torch.randn(80, 12, generator=torch.Generator().manual_seed(0)).double()
weight = torch.randn(3, 12, generator=torch.Generator().manual_seed(1)).double()
side = ["left" if a < 0 else "right" for a in x[:, 0]]
explore((lambda x: x[:, :3], lambda z: (0.3 * z @ weight).tanh()), x, labels=side)
""",
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Address of a JupyterLab of our own, with nothing but a copy of the notebooks."""
    folder = tmp_path_factory.mktemp("lab")
    work, settings = folder / "notebooks", folder / "settings"
    work.mkdir()
    for name in NOTEBOOKS:
        shutil.copy(project_root() / "notebooks" / f"{name}.ipynb", work)
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}
    for name, source in SMALL.items():
        cells = [nbformat.v4.new_code_cell(source.strip())]
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), work / f"{name}.ipynb")
    for name, values in SETTINGS.items():
        path = settings / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    environment = os.environ | {
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(settings),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "LATENTGEO_FIGURES": str(PICTURES / "figures"),
        "LATENTGEO_RESULTS": str(PICTURES / "results"),
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}"]
    command += ["--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={work}"]
    command += ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=work)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{address}/api/status?token={token}", server, folder / "log")
        yield address, token
    finally:
        server.terminate()  # its kernels with it
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(30)
        server.kill()


def _wait_for(address, server, log):
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
            return
        time.sleep(0.5)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-4000:]}")


@pytest.fixture
def page(browser, lab):
    """A page that may talk to our JupyterLab and to nobody else."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    strangers = []

    def only_home(route):
        if route.request.url.startswith((lab[0], "data:", "blob:")):
            route.continue_()
        else:
            strangers.append(route.request.url)
            route.abort()

    context.route("**/*", only_home)
    opened = context.new_page()
    opened.strangers = strangers
    yield opened
    context.close()
    address, token = lab
    with urllib.request.urlopen(f"{address}/api/kernels?token={token}", timeout=60) as kernels:
        running = json.load(kernels)
    for kernel in running:  # each of them keeps the memory that its notebook took
        request = urllib.request.Request(f"{address}/api/kernels/{kernel['id']}?token={token}", method="DELETE")
        urllib.request.urlopen(request, timeout=60).close()


def _open(page: Page, lab: tuple[str, str], name: str) -> None:
    address, token = lab
    page.goto(f"{address}/lab/tree/{name}.ipynb?token={token}&reset", timeout=180_000)
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=180_000)
    _idle(page)


def _idle(page: Page) -> None:
    """Wait until the status bar says that there is a kernel and that it has nothing to do."""
    page.locator("#jp-main-statusbar").get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=PATIENCE)
    expect(page.locator(".jp-Spinner:visible")).to_have_count(0, timeout=PATIENCE)


def _run_all(page: Page) -> None:
    """Run all cells through the menu, and wait until each of them has been counted and the kernel is idle."""
    cells = page.locator(".jp-CodeCell")
    count = cells.count()
    page.get_by_role("menuitem", name="View", exact=True).click()  # cells that hide their code have no prompt
    page.get_by_text("Expand All Code", exact=True).click()
    page.get_by_role("menuitem", name="Edit", exact=True).click()
    page.get_by_text("Clear Outputs of All Cells", exact=True).click()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    done = """(count) => {
        const failed = document.querySelector('[data-mime-type="application/vnd.jupyter.error"]');
        const prompts = [...document.querySelectorAll(".jp-CodeCell .jp-InputArea-prompt")];
        return failed || (prompts.length === count && prompts.every((p) => /\\d/.test(p.textContent)));
    }"""
    page.wait_for_function(done, arg=count, timeout=PATIENCE)
    _idle(page)


def _nothing_failed(page: Page) -> None:
    for kind in ("error", "stderr"):
        found = page.locator(f'[data-mime-type="application/vnd.jupyter.{kind}"]').all_inner_texts()
        # Bars of progress are for whoever waits, on a slow machine.
        lines = [line for text in found for line in text.splitlines() if line.strip() and "%|" not in line]
        assert not lines, f"{kind}: " + "\n".join(lines)[:2000]
    assert page.strangers == []


def _click(page: Page, x: float, y: float) -> None:
    """Click at shares of the plot's width and height."""
    plot = page.locator(".latentgeo-explorer svg.lg-over").first
    box = plot.bounding_box()
    plot.click(position={"x": x * box["width"], "y": y * box["height"]})


def _two_clicks(page: Page, first: tuple[float, float], second: tuple[float, float]) -> float:
    """Click two points of the explorer; seconds from the second click to the drawn answer."""
    root = page.locator(".latentgeo-explorer").first
    root.scroll_into_view_if_needed()
    before = root.get_attribute("data-pair")
    _click(page, *first)
    expect(root.locator(".lg-status")).to_contain_text("second point")
    # The browser's own clock, from the click's event to the frame after the answer is drawn.
    page.evaluate(
        """(before) => {
            const root = document.querySelector(".latentgeo-explorer");
            window.answered = new Promise((resolve) => {
                let start;
                root.querySelector("svg.lg-over").addEventListener("click", () => { start = performance.now(); });
                new MutationObserver(() => {
                    requestAnimationFrame(() => setTimeout(() => resolve((performance.now() - start) / 1000)));
                }).observe(root, { attributeFilter: ["data-pair"] });
            });
        }""",
        before,
    )
    _click(page, *second)
    seconds = page.evaluate("window.answered")
    assert root.get_attribute("data-pair") != before
    return seconds


def _check_explorer(page: Page, name: str, kind: str) -> None:
    root = page.locator(".latentgeo-explorer").first
    _two_clicks(page, (0.3, 0.3), (0.7, 0.65))  # warm
    seconds = _two_clicks(page, (0.75, 0.3), (0.3, 0.7))
    (PICTURES / f"{name}.json").write_text(json.dumps({"seconds_to_answer": seconds}))
    expect(root.locator("polyline.lg-curve")).to_have_count(2)
    expect(root.locator("circle.lg-end")).to_have_count(2)
    expect(root.locator(".lg-strip canvas" if kind == "images" else ".lg-trends svg")).to_have_count(
        2 if kind == "images" else 1
    )
    rows = root.locator(".lg-table tr")
    expect(rows.first).to_contain_text("converged")
    expect(rows.first).to_contain_text("%")
    values = [float(text) for text in root.locator(".lg-table .lg-value").all_inner_texts()]
    geodesic, straight, chord, _ = values
    assert 0 < chord <= geodesic * 1.01 <= straight * 1.02
    root.screenshot(path=PICTURES / f"{name}_explorer.png")
    page.screenshot(path=PICTURES / f"{name}_page.png")
    _click(page, 0.5, 0.5)  # starts again
    expect(root.locator("polyline.lg-curve")).to_have_count(0)
    expect(root.locator("circle.lg-end")).to_have_count(1)
    _click(page, 0.2, 0.8)  # two again, so that the next click is a first one
    expect(root.locator("polyline.lg-curve")).to_have_count(2)
    assert seconds < ANSWER


def _theme(page: Page, name: str) -> None:
    page.get_by_role("menuitem", name="Settings", exact=True).click()
    page.locator(".lm-Menu-item").get_by_text("Theme", exact=True).hover()
    page.locator(".lm-Menu-item").get_by_text(f"JupyterLab {name}", exact=True).click()
    expect(page.locator(f"body[data-jp-theme-name='JupyterLab {name}']")).to_be_attached(timeout=30_000)


@pytest.fixture(autouse=True)
def _folder():
    PICTURES.mkdir(parents=True, exist_ok=True)


def test_images_in_both_themes(page, lab):
    _open(page, lab, "small_images")
    _run_all(page)
    _nothing_failed(page)
    _check_explorer(page, "small_images", "images")
    _theme(page, "Dark")
    _two_clicks(page, (0.3, 0.3), (0.7, 0.65))
    page.locator(".latentgeo-explorer").first.screenshot(path=PICTURES / "small_images_dark.png")
    _theme(page, "Light")  # JupyterLab remembers it, for the other notebooks too


def test_features_keys_and_axes(page, lab):
    _open(page, lab, "small_features")
    _run_all(page)
    _nothing_failed(page)
    _check_explorer(page, "small_features", "features")
    root = page.locator(".latentgeo-explorer").first
    page.mouse.move(0, 0)  # nothing is under the pointer: the keys begin with the first point
    root.locator("svg.lg-over").focus()
    for key in ("ArrowRight", "Enter", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    expect(root.locator(".lg-glance tr")).to_have_count(5, timeout=20_000)
    page.keyboard.press("Enter")
    expect(root).to_have_attribute("data-pair", "0,2", timeout=20_000)
    root.get_by_label("horizontal axis").select_option(label="z3")
    expect(root.locator(".lg-caption")).to_contain_text("two coordinates", timeout=20_000)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_of_the_repository_runs_from_top_to_bottom(page, lab, name):
    _open(page, lab, name)
    _run_all(page)
    _nothing_failed(page)
    page.screenshot(path=PICTURES / f"{name}.png")
    if name.startswith("15"):
        assert page.locator(".latentgeo-explorer").count() > 0
    if page.locator(".latentgeo-explorer").count():
        strips = page.locator(".latentgeo-explorer").first.locator(".lg-strip").count()
        _check_explorer(page, name, "images" if strips else "features")
