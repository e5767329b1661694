"""What the documentation site is made of: its pages, the markup of docstrings, and a check of every link.

The pages lie as the files do in the repository, so that the relative links of README.md lead to the same things here
and there. The pages of the API are those of ``SUBJECTS``: the public names, and all of the modules that are themselves
public, such as ``lg.curvature``.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import griffe
import material
import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.structure.toc import get_toc

import latentgeo
from latentgeo.paper.reproduction.html import MATHJAX, mathjax_files, with_descriptions

ROOT = Path(__file__).resolve().parent.parent
SUBJECTS = {
    "Metric": ["geometry.metric"],
    "Curves and geodesics": [
        "geometry.curve",
        "geometry.geodesic.solve",
        "geometry.geodesic.result",
        "geometry.geodesic.starts",
    ],
    "Maps": ["geometry.maps"],
    "Curvature": ["geometry.curvature"],
    "Triangles": ["geometry.triangles"],
    "Likelihoods": ["geometry.likelihood"],
    "Decoders": ["geometry.decoder"],
    "Surfaces": ["geometry.surfaces"],
    "Coordinates": ["identifiability.coordinates"],
    "Points": ["identifiability.points"],
    "Checks": ["identifiability.invariance", "identifiability.assumptions", "identifiability.charts"],
    "Your own models": [
        *("adapters.model", "agreement.report", "explorer.explorer", "adapters.sklearn", "adapters.anndata"),
        *("adapters.scvi", "adapters.autoencoder"),
    ],
    "Reliability": ["agreement.reliability"],
    "The paper": ["paper"],
}
PAGES = ("README.md", "data/README.md", "data/results/README.md", "latentgeo/README.md")
MIRRORED = ("*.md", *PAGES[1:], "CITATION.cff", "LICENSE", "figures/*.png", "figures/*.svg", "notebooks/*.ipynb")
STYLE = """\
.md-grid { max-width: 76rem; }
.md-typeset table:not([class]) { font-size: 0.62rem; }
.md-typeset table:not([class]) th { min-width: 3rem; }
.md-typeset table:not([class]) :is(th, td) { padding: 0.5em 0.7em; }
.md-typeset table:not([class]) td > code { white-space: nowrap; }
.md-typeset p:has(.arithmatex) { overflow: auto hidden; }
.jupyter-wrapper .cell-tag { display: none; }
.md-typeset img { background: white; }
.md-typeset .doc-contents { margin-left: 0.8rem; }
.md-typeset .doc-contents .highlight { margin-top: 0; }
.jupyter-wrapper .jp-OutputArea-output table { font-size: 0.65rem; }
"""


def _names(module: str) -> list[str]:
    """Full names of what a module offers to readers: all of it if it is a public module, else the public names."""
    found = importlib.import_module(f"latentgeo.{module}")
    public = found in vars(latentgeo).values() or found is latentgeo.reliability or found is latentgeo.paper
    offered = getattr(found, "__all__", None) or [
        name
        for name, value in vars(found).items()
        if getattr(value, "__module__", None) == found.__name__ and inspect.getdoc(value) and name[0] != "_"
    ]
    things = [getattr(found, name) for name in offered if public or name in latentgeo.__all__]
    return [f"{thing.__module__}.{thing.__name__}" for thing in things]


API = {subject: [name for module in modules for name in _names(module)] for subject, modules in SUBJECTS.items()}


def _page(subject: str) -> str:
    """Path of the page of a subject."""
    return f"api/{subject.lower().replace(' ', '-')}.md"


def _title(notebook: Path) -> str:
    """Number and heading of a notebook, up to its colon."""
    heading = "".join(json.loads(notebook.read_text(encoding="utf-8"))["cells"][0]["source"]).splitlines()[0]
    return f"{notebook.name[:2]} {heading.lstrip('# ').partition(':')[0]}"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Lay out the navigation."""
    notebooks = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    config.nav = [
        {"latentgeo": "README.md"},
        {"Notebooks": [{_title(path): f"notebooks/{path.name}"} for path in notebooks]},
        {"Guide": "latentgeo/README.md"},
        {"Evidence": "data/results/README.md"},
        {"Reference": ["api/index.md", *({subject: _page(subject)} for subject in API)]},
        {"Data and runs": "data/README.md"},
        {"Contributing": "CONTRIBUTING.md"},
        {"Changes": "CHANGELOG.md"},
    ]
    return config


@event_priority(100)  # before mkdocs-jupyter looks for notebooks
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Mirror the repository, add the pages of the API, and bring MathJax along."""
    for file in [file for file in files if file.src_dir == config.docs_dir]:
        files.remove(file)
    for path in (path for pattern in MIRRORED for path in ROOT.glob(pattern)):
        name = path.relative_to(ROOT).as_posix()
        files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    for name, path in mathjax_files().items():
        files.append(File.generated(config, f"mathjax/{name}", abs_src_path=str(path)))
    written = {
        "assets/site.css": STYLE,
        "assets/mathjax.js": f"window.MathJax = {json.dumps(MATHJAX)};\n",
        "assets/iframe-worker.js": _worker(),
        "api/index.md": _overview(),
        **{_page(subject): _reference(subject) for subject in API},
    }
    for name, text in written.items():
        files.append(File.generated(config, name, content=text))
    return files


def _worker() -> str:
    """A script with which the search runs from a folder too, where browsers start no worker from a file.

    It gives them the theme's worker as text. Its name is what the theme's plug-in *offline* looks for.
    """
    (worker,) = (Path(material.__file__).parent / "templates/assets/javascripts/workers").glob("search.*.min.js")
    source = json.dumps(worker.read_text(encoding="utf-8"))
    return (
        f'if (location.protocol === "file:") {{\n  const source = new Blob([{source}]);\n'
        "  window.Worker = class extends Worker { constructor() { super(URL.createObjectURL(source)); } };\n}\n"
    )


def _overview() -> str:
    """The page that lists every public name with the first line of its docstring."""
    lines = [
        "# Reference",
        "",
        "What is needed for a model of one's own is a name of `latentgeo`; the rest is in its modules, such as",
        "`latentgeo.curvature`. Symbols are those of the [notation](../latentgeo/README.md#notation).",
    ]
    for subject, names in API.items():
        lines += ["", f"## {subject}", ""]
        for name in names:
            summary = _markdown(inspect.getdoc(_thing(name)).splitlines()[0])
            lines.append(f"- [`{name.rpartition('.')[2]}`][{name}]: {summary}")
    return "\n".join(lines) + "\n"


def _reference(subject: str) -> str:
    """The page of a subject, for mkdocstrings to fill."""
    return f"# {subject}\n" + "".join(f"\n::: {name}\n" for name in API[subject])


def _thing(name: str) -> object:
    """What a full name stands for."""
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(module), last)


class Docstrings(griffe.Extension):
    """Turn the markup of our docstrings, which is Sphinx's, into Markdown."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Rewrite one docstring before it is parsed."""
        if obj.docstring:
            obj.docstring.value = _markdown(obj.docstring.value)


def _markdown(text: str) -> str:
    r"""A docstring with equations, references and stars as Markdown has them.

    Example:
        >>> print(_markdown("See :func:`geodesic`, shape (*batch, d).\n\n.. math:: G = J^T J\n\nThen."))
        See [`geodesic`][latentgeo.geometry.geodesic.solve.geodesic], shape (\*batch, d).
        <BLANKLINE>
        $$
        G = J^T J
        $$
        <BLANKLINE>
        Then.
    """
    text = re.sub(r"^( *)\.\. math:: *(.*(?:\n\1 +\S.*)*)", _equation, text, flags=re.MULTILINE)
    text = re.sub(r":math:`([^`]+)`", r"$\1$", text)
    text = re.sub(r":(?:func|class|meth|mod|attr):`~?([^`]+)`", _link, text)
    text = re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.MULTILINE)
    # A star before a word is meant, as in (*batch, d). Code keeps it, and so does the name of a parameter, which the
    # parser of docstrings looks up.
    code = r"(^ *(?:>>>|\.\.\. )[^\n]*|``.+?``|`[^`]+`|\$\$.+?\$\$|\$[^$\n]+\$)"
    parts = re.split(code, text, flags=re.MULTILINE | re.DOTALL)
    parts[::2] = [re.sub(r"(?<![\w*])\\?(\*{1,2})(?=\w+[^\w:])", _escape, part) for part in parts[::2]]
    return "".join(parts)


def _escape(found: re.Match[str]) -> str:
    return "".join(f"\\{letter}" for letter in found[1])


def _equation(found: re.Match[str]) -> str:
    indent, body = found.groups()
    lines = (indent + line.strip() for line in body.strip().splitlines())
    return "\n".join([f"{indent}$$", *lines, f"{indent}$$"])


def _link(found: re.Match[str]) -> str:
    """A link to the page of a public name or of a member of it; code where there is none."""
    target = found[1]
    for full in (name for names in API.values() for name in names):
        module, _, name = full.rpartition(".")
        parents = (f"latentgeo.{module.rpartition('.')[2]}.", "latentgeo.paper.", "latentgeo.", "")
        for written in (full, *(parent + name for parent in parents)):
            member = target.removeprefix(written)
            if target.startswith(written) and (not member or hasattr(_thing(full), member[1:])):
                return f"[`{name}{member}`][{full}{member}]"
    return f"`{target}`"


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Give wide tables the room of a table of contents."""
    if page.file.src_uri in PAGES:
        page.meta["hide"] = ["toc"]
    return markdown


def on_page_content(html: str, page: Page, **_: object) -> str:
    """Leave out what a notebook would fetch from elsewhere, and take its table of contents from its headings.

    MathJax comes with the site, and Mermaid is not used. Prompts, tags and buttons are not searched, nor is code twice.
    mkdocs-jupyter drops code from the headings in its table of contents, and then links to places that are not there.
    """
    if not page.file.src_uri.endswith(".ipynb"):
        return html
    elsewhere = r'<script[^>]*(?:src="https?:|type="text/x-mathjax-config"|type="module">\s*import).*?</script>'
    html = re.sub(elsewhere, "", html, flags=re.DOTALL)
    around = r'<(clipboard-copy|(?:div|span)(?= class="(?:jp-\w+Prompt|clipboard-copy-txt|cell-tag)\b))'
    html = re.sub(around, r"<\1 data-search-exclude", html)
    html = with_descriptions(html, nbformat.read(page.file.abs_src_path, 4))
    headings = re.findall(r'<h([1-3]) id="([^"]+)">(.*?)<a class="anchor-link"', html, flags=re.DOTALL)
    title, *sections = (
        {"level": int(level), "id": place, "name": re.sub("<[^>]+>", "", name), "children": []}
        for level, place, name in headings
    )
    page.toc = get_toc([{**title, "children": sections}])
    return html


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a site with a broken link, or one that fetches anything from elsewhere."""
    faults = broken_links(Path(config.site_dir))
    if faults:
        raise PluginError("the site has broken links:\n" + "\n".join(faults))


class _Links(HTMLParser):
    """Gather what a page links to, what it loads, and the places in it that can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.add(values["href"])
        elif tag == "link" and values.get("rel") in ("stylesheet", "icon", "preload", "modulepreload"):
            self.loads.add(values.get("href", ""))
        elif tag in ("script", "img", "iframe", "source") and "src" in values:
            self.loads.add(values["src"])


def broken_links(site: Path) -> list[str]:
    """Links within a built site that lead nowhere, and scripts, styles and fonts that it would fetch from elsewhere.

    Args:
        site: folder of the site.

    Returns:
        A line for each, with its page.
    """
    pages = {path: _Links(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    faults = []
    for path, page in pages.items():
        here = path.relative_to(site)
        faults += [f"{here} fetches {load}" for load in sorted(page.loads) if urlsplit(load).netloc]
        for link in sorted(page.links | page.loads):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or here.name == "404.html":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                faults.append(f"{here} links to {link}, which is not there")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                faults.append(f"{here} links to {link}, which has no such place")
    return faults
