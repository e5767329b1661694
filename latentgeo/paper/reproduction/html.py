"""One page for all notebooks: what each of them found, every figure, and the executed notebooks themselves."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from latentgeo.paper.reproduction.notebooks import Outcome, format_memory, shown

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .4rem .6rem; vertical-align: top }
tr { border-bottom: 1px solid #ddd } td.number { text-align: right; white-space: nowrap }
figure { margin: 2rem 0 } img { max-width: 100% } pre { white-space: pre-wrap; margin: 0; font-size: 13px }
.reproduced { color: #006d5b } .failed, .interrupted { color: #a3004d }
"""


def write_report(output: Path, outcomes: Sequence[Outcome]) -> Path:
    """Render executed notebooks as HTML, with an index of outcomes and figures.

    Args:
        output: folder of the executed notebooks; pages are written into ``html`` in it.
        outcomes: what became of each notebook.

    Returns:
        Path of the index.

    Raises:
        ValueError: there is no executed notebook.
    """
    import nbformat
    from nbconvert import HTMLExporter

    notebooks = sorted(output.glob("[0-9][0-9]_*.ipynb"))
    if not notebooks:
        raise ValueError(f"{output}: expected executed notebooks, got none; run `latentgeo reproduce` first")
    pages = output / "html"
    pages.mkdir(exist_ok=True)
    exporter = HTMLExporter(template_name="lab")
    figures = []
    for path in notebooks:
        notebook = nbformat.read(path, 4)
        body, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": path.stem}})
        (pages / f"{path.stem}.html").write_text(body, encoding="utf-8")
        figures += [(path.stem, image.replace("\n", "")) for image in shown(notebook, "image/png")]
    rows = [_row(outcome, (pages / f"{outcome.notebook}.html").is_file()) for outcome in outcomes]
    drawn = [
        f'<figure><img alt="a figure of {name}" src="data:image/png;base64,{image}"><figcaption>'
        f'<a href="{name}.html">{name}</a></figcaption></figure>'
        for name, image in figures
    ]
    header = "".join(f"<th>{name}</th>" for name in ("notebook", "status", "seconds", "memory", "what it found"))
    index = pages / "index.html"
    index.write_text(
        f"<!doctype html><html lang=en><meta charset=utf-8><title>latentgeo</title><style>{_STYLE}</style>"
        f"<h1>latentgeo: what the notebooks found</h1><table><tr>{header}</tr>{''.join(rows)}</table>"
        f"<h2>Figures</h2>{''.join(drawn)}</html>\n",
        encoding="utf-8",
    )
    return index


def _row(outcome: Outcome, page: bool) -> str:
    link = f'<a href="{outcome.notebook}.html">{outcome.notebook}</a>' if page else outcome.notebook
    return (
        f'<tr><td>{link}</td><td class="{outcome.status}">{outcome.status}</td><td class=number>{outcome.seconds:.0f}'
        f"</td><td class=number>{format_memory(outcome.memory)}</td><td><pre>{html.escape(outcome.headline)}</pre>"
        "</td></tr>"
    )
