"""The report and the documentation site, opened from a folder without a network; no part of `make test`.

`make e2e` drives Chromium through them, at the widths of a telephone and of a screen, in both themes, and leaves
screenshots in build/e2e.
"""

from __future__ import annotations

import os
import subprocess
import sys

import matplotlib.pyplot as plt
import nbformat
import pytest
from IPython.core.pylabtools import print_figure
from playwright.sync_api import Page, expect

from latentgeo.paper.paths import project_root
from latentgeo.paper.reproduction.html import write_report
from latentgeo.paper.reproduction.notebooks import Outcome

PICTURES = project_root() / "build" / "e2e"
SIZES = {"narrow": (390, 844), "wide": (1280, 900)}
FORMULA = r"The metric is $G = J^\top J$, the length $$L = \int_0^1 \sqrt{\dot z^\top G \dot z}\, dt.$$"
CODE = "lengths = lg.geodesic(model.decode, z[first], z[second], segments=16, tol=1e-4, max_iter=200).length.numpy()"
HOME = ("file:", "data:", "blob:", "about:")
# Of the text with the page, as the Web Content Accessibility Guidelines 2.1 define it.
CONTRAST = """() => {
    const light = (colour) => {
        const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((value) => value / 255);
        const linear = parts.map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
    };
    const text = document.querySelector("article p, .jp-RenderedMarkdown p, td");
    const both = [getComputedStyle(text).color, getComputedStyle(document.body).backgroundColor].map(light);
    return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
}"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report on a notebook with formulas, code, a wide table and a figure."""
    folder = tmp_path_factory.mktemp("report")
    figure, ax = plt.subplots(figsize=(9.0, 3.0))
    ax.plot([0, 1], [0, 1])
    plt.close(figure)
    image = {"image/png": print_figure(figure, base64=True), "text/plain": "<Figure with 1 Axes>"}
    cells = "".join(f"<td>{k / 7:.5f}</td>" for k in range(16))
    table = {"text/html": f"<table><tr>{cells}</tr></table>", "text/plain": ""}
    outputs = [nbformat.v4.new_output("execute_result", data, execution_count=1) for data in (table, image)]
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell(f'# Lengths & "angles"\n\n{FORMULA}'),
            nbformat.v4.new_code_cell(CODE, execution_count=1, outputs=outputs[:1]),
            nbformat.v4.new_markdown_cell("A straight line grows."),
            nbformat.v4.new_code_cell("figure", execution_count=2, outputs=outputs[1:]),
        ]
    )
    nbformat.write(notebook, folder / "00_lengths.ipynb")
    found = "geodesic 3.6 %, Euclidean 5.2 %"
    return write_report(folder, [Outcome("00_lengths", "verified", 12.3, found, 2**29, "quick", "Geodesics agree.")])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The documentation site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    command += ["--config-file", ".site/mkdocs.yml"]
    subprocess.run(command, cwd=project_root(), env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, check=True)
    return folder


@pytest.fixture(params=[(size, scheme) for size in SIZES for scheme in ("light", "dark")], ids="-".join)
def look(request):
    return request.param


@pytest.fixture
def page(browser, look):
    """A page of a reader without a network."""
    size, scheme = look
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, offline=True)
    opened = context.new_page()
    strangers = []
    opened.on("request", lambda asked: asked.url.startswith(HOME) or strangers.append(asked.url))
    yield opened
    assert strangers == []
    context.close()


def _is_readable(page: Page, look: tuple[str, str], name: str) -> None:
    """Nothing leaves the page at its right, letters stand out, and images say what they show."""
    page.wait_for_function("!window.MathJax?.Hub?.queue || !MathJax.Hub.queue.pending", timeout=60_000)
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{name}_{'_'.join(look)}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.evaluate(CONTRAST) > 4.5
    silent = "[...document.images].filter((image) => !image.alt || image.alt.startsWith('No description'))"
    assert page.evaluate(f"{silent}.length") == 0


def _is_typeset(page: Page) -> None:
    expect(page.locator(".MathJax .math").first).to_be_visible(timeout=30_000)
    assert "$" not in page.locator(".jp-RenderedMarkdown").first.inner_text()


def test_the_report_is_read_without_a_network(page, look, report):
    page.goto(report.as_uri())
    _is_readable(page, look, "report")
    page.get_by_role("link", name="00_lengths").first.click()
    _is_typeset(page)
    _is_readable(page, look, "report_notebook")
    assert page.locator("img").get_attribute("alt") == 'Lengths & "angles". A straight line grows.'
    page.get_by_role("link", name="What the notebooks found").click()
    assert page.url == report.as_uri()


def test_the_site_is_read_and_searched_without_a_server(page, look, site):
    page.goto((site / "notebooks" / "00_start_here.html").as_uri())
    _is_typeset(page)
    _is_readable(page, look, "site_notebook")
    page.goto((site / "api" / "your-own-models.html").as_uri())
    assert "\\*" not in page.locator("article").inner_text()
    _is_readable(page, look, "site_api")
    page.goto((site / "index.html").as_uri())
    _is_readable(page, look, "site")
    if look[0] == "narrow":
        page.locator("label.md-header__button[for=__search]").click()
    box, results = page.locator("input.md-search__input"), page.locator("a.md-search-result__link")
    box.fill("parallel transport")
    expect(results.first).to_be_visible(timeout=30_000)
    page.screenshot(path=PICTURES / f"site_search_{'_'.join(look)}.png")
    found = page.locator(".md-search-result").inner_text()
    assert "Copied!" not in found
    box.fill("copied")
    expect(page.locator(".md-search-result__meta")).not_to_contain_text("Type to start", timeout=30_000)
    assert "In [" not in page.locator(".md-search-result").inner_text()
    box.fill("parallel transport")
    results.first.click()
    expect(page.locator("article")).to_contain_text("transport")
