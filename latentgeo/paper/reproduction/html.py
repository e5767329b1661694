"""One page for all notebooks: what each of them found, every figure, and the executed notebooks themselves."""

from __future__ import annotations

import html
import importlib.util
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from latentgeo.extras import require
from latentgeo.paper.reproduction.notebooks import FAILED, INTERRUPTED, Outcome, format_memory
from latentgeo.paper.reproduction.record import predicted, reproduced, verified

MATHJAX = {  # read by MathJax as it starts; only what is marked as mathematics is looked at
    "messageStyle": "none",
    "tex2jax": {
        "inlineMath": [["$", "$"], ["\\(", "\\)"]],
        "displayMath": [["$$", "$$"], ["\\[", "\\]"]],
        "processEscapes": True,
        "ignoreClass": "md-header|md-sidebar|md-typeset|jp-Notebook",
        "processClass": "arithmatex|jp-RenderedMarkdown|jp-RenderedLatex",
    },
    "HTML-CSS": {"availableFonts": [], "imageFont": None, "webFont": "STIX-Web", "linebreaks": {"automatic": True}},
}
MATHJAX_START = "MathJax.js?config=TeX-AMS-MML_HTMLorMML-full"
_SCALES = (
    "A status is that of the scale at which the notebook ran. The quick one has few models and pairs, which leaves "
    "some claims undecided; those of the README rest on the evidence scale, with numbers in data/results/README.md."
)
_UNSAID = 'alt="No description has been provided for this image"'  # what nbconvert says of an image
_STYLE = """
:root { color-scheme: light dark; --line: #ddd; --good: #006d5b; --bad: #a3004d }
@media (prefers-color-scheme: dark) { :root { --line: #555; --good: #5fd6bd; --bad: #ff7eb6 } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: CanvasText;
  background: Canvas }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .4rem .6rem; vertical-align: top }
tr { border-bottom: 1px solid var(--line) } td.number { text-align: right; white-space: nowrap }
figure { margin: 2rem 0 } img { max-width: 100%; background: white }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; font-size: 13px } td p { margin: 0 0 .3rem }
.good { color: var(--good) } .bad { color: var(--bad) }
@media (max-width: 40rem) {
  tr { display: block; padding: .6rem 0 } tr:has(th) { display: none }
  td { display: inline-block; padding: 0 .6rem 0 0 } td:last-child { display: block }
}
"""
# JupyterLab's own look, in the reader's theme; a way back; nothing that is fetched from elsewhere.
_PAGE = """\
{% extends "lab/index.html.j2" %}
{% block html_head_js %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
{% block html_head_js_mathjax %}
<script>window.MathJax = MATHJAX;</script>
<script src="mathjax/START"></script>
{% endblock %}
{% block notebook_css %}
{{ super() }}
{{ resources.include_css("static/theme-dark.css") | replace("<style", '<style media="(prefers-color-scheme: dark)"') }}
<style>
:root { color-scheme: light dark }
.jp-Notebook main { max-width: 62rem; margin: 0 auto }
.jp-OutputArea-output, .jp-InputArea-editor .highlight { overflow-x: auto }
.jp-RenderedImage img { background: white }
nav { padding: var(--jp-notebook-padding); font: 14px/1.5 system-ui, sans-serif }
nav a { color: var(--jp-content-link-color) }
@media (max-width: 40rem) {
  .jp-Notebook.jp-Notebook { padding: 0 }
  .jp-InputPrompt, .jp-OutputPrompt { display: none }
}
</style>
{% endblock %}
{% block body_header %}
{{ super() }}
<nav><a href="index.html">What the notebooks found</a></nav>
{% endblock %}
"""


def mathjax_files() -> dict[str, Path]:
    """MathJax as jupyter-server-mathjax brings it: what is read for pages in English, by name."""
    folder = Path(importlib.util.find_spec("jupyter_server_mathjax").origin).parent / "static"
    left_out = ("extensions/a11y/", "localization/", "jax/output/SVG/")
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path for name, path in files.items() if not name.startswith(left_out)}


def write_report(output: Path, outcomes: Sequence[Outcome]) -> Path:
    """Render executed notebooks as HTML, with an index of outcomes and figures, to be read without a network.

    Args:
        output: folder of the executed notebooks; pages are written into ``html`` in it.
        outcomes: what became of each notebook.

    Returns:
        Path of the index.

    Raises:
        ImportError: nbconvert or MathJax is not installed.
        ValueError: there is no executed notebook.
    """
    require("the report", "notebooks", "nbconvert", "jupyter_server_mathjax")
    import nbformat
    from nbconvert import HTMLExporter

    notebooks = sorted(output.glob("[0-9][0-9]_*.ipynb"))
    if not notebooks:
        raise ValueError(f"{output}: expected executed notebooks, got none; run `latentgeo reproduce` first")
    pages = output / "html"
    for name, path in mathjax_files().items():
        (target := pages / "mathjax" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    template = _PAGE.replace("MATHJAX", json.dumps(MATHJAX)).replace("START", MATHJAX_START)
    exporter = HTMLExporter(template_name="lab", raw_template=template)
    figures = []
    for path in notebooks:
        notebook = nbformat.read(path, 4)
        body, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": path.stem}})
        (pages / f"{path.stem}.html").write_text(with_descriptions(body, notebook), encoding="utf-8")
        figures += [(path.stem, *drawn) for drawn in _images(notebook)]
    rows = [_row(outcome, (pages / f"{outcome.notebook}.html").is_file()) for outcome in outcomes]
    drawn = [
        f'<figure><img alt="{html.escape(said)}" src="data:image/png;base64,{image}"><figcaption>'
        f'<a href="{name}.html">{name}</a></figcaption></figure>'
        for name, image, said in figures
    ]
    header = "".join(f"<th>{name}</th>" for name in ("notebook", "status", "time", "memory", "claim and numbers"))
    index = pages / "index.html"
    index.write_text(
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>latentgeo</title><style>{_STYLE}</style>"
        f"<h1>latentgeo: what the notebooks found</h1><p>{_SCALES}</p><table><tr>{header}</tr>{''.join(rows)}</table>"
        f"<h2>Figures</h2>{''.join(drawn)}</html>\n",
        encoding="utf-8",
    )
    return index


def with_descriptions(page: str, notebook: Any) -> str:
    """Give the images of a rendered notebook alternative text, where nbconvert says that there is none."""
    said = dict(_images(notebook))

    def alternative(found: re.Match[str]) -> str:
        return f'alt="{html.escape(said["".join(found[2].split())])}"{found[1]}'

    return re.sub(rf'{re.escape(_UNSAID)}([^>]*?src="data:image/png;base64,([^"]+)")', alternative, page)


def _images(notebook: Any) -> Iterator[tuple[str, str]]:
    """Images that cells show, as base64, each with what is said of it.

    That is the image's own plain text, or where it has none, as a figure of matplotlib, the notebook's heading with the
    last heading or paragraph before it.
    """
    title, before = "", ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            blocks = [" ".join(re.sub("[#`*$]", "", block).split()) for block in cell.source.split("\n\n")]
            blocks = [block for block in blocks if block] or [before]
            title, before = title or blocks[0], blocks[-1]
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                text = data.get("text/plain", "<")
                said = f"{title.rstrip('.?')}. {before}" if text.startswith("<") else text
                yield "".join(data["image/png"].split()), said


def _row(outcome: Outcome, page: bool) -> str:
    link = f'<a href="{outcome.notebook}.html">{outcome.notebook}</a>' if page else outcome.notebook
    good = outcome.status in (verified(True), reproduced(True), predicted(True))
    bad = outcome.status in (verified(False), reproduced(False), predicted(False), FAILED, INTERRUPTED)
    tone = "good" if good else "bad" if bad else ""
    scale = f"<br><small>{outcome.profile} scale</small>" if outcome.profile else ""
    claim = f"<p>{html.escape(outcome.claim)}</p>" if outcome.claim else ""
    return (
        f'<tr><td>{link}</td><td class="{tone}">{outcome.status}{scale}</td><td class=number>{outcome.seconds:.0f} s'
        f"</td><td class=number>{format_memory(outcome.memory)}</td>"
        f"<td>{claim}<pre>{html.escape(outcome.headline)}</pre></td></tr>"
    )
