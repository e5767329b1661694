"""The explorer in a page of its own, dragged, zoomed, hovered and typed at; no part of `make test`.

`make e2e` drives Chromium. What the page asks for is answered by the widget itself, without a kernel between them, in
both themes and at the widths of a telephone and of a screen; screenshots go to build/e2e.
"""

from __future__ import annotations

import base64
import json
import re
from importlib.resources import files

import pytest
import torch
from playwright.sync_api import Page, expect

import latentgeo as lg
from latentgeo.explorer.widget import ExplorerWidget
from latentgeo.paper.paths import project_root

PICTURES = project_root() / "build" / "e2e"
LOOKS = [(width, scheme) for width in (390, 1280) for scheme in ("light", "dark")]
PAGE = """<!doctype html><html lang="en"><meta name="viewport" content="width=device-width">
<style>:root { color-scheme: light dark }</style><style>STYLE</style><main></main></html>"""
# What anywidget gives to a view: the state, and a way to change it and to ask.
MODEL = """async ([source, state]) => {
    const read = (key, value) => value && value.base64 !== undefined
        ? new DataView(Uint8Array.from(atob(value.base64), (c) => c.charCodeAt(0)).buffer) : value;
    const heard = {}, now = JSON.parse(state, read), changed = {};
    const fire = (event, ...given) => (heard[event] || []).forEach((call) => call(...given));
    const change = (news) => {
        Object.assign(now, news);
        Object.keys(news).forEach((key) => fire(`change:${key}`));
    };
    const model = {
        get: (key) => now[key],
        set: (key, value) => { changed[key] = value; change({ [key]: value }); },
        save_changes: async () => {
            const news = { ...changed };
            Object.keys(changed).forEach((key) => delete changed[key]);
            change(JSON.parse(await python("set", news), read));
        },
        send: async (message) => {
            for (const [said, buffer] of JSON.parse(await python("send", message), read)) {
                fire("msg:custom", said, [buffer]);
            }
        },
        on: (event, call) => { (heard[event] = heard[event] || []).push(call); },
        off: () => {},
    };
    const module = await import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
    module.default.render({ model, el: document.querySelector("main") });
}"""


class _Kernel:
    """A widget as the page sees it."""

    def __init__(self, view: lg.explore) -> None:
        self.widget = ExplorerWidget(view)
        self.sent: list[tuple[object, bytes]] = []
        self.widget.send = lambda message, buffers=(b"",): self.sent.append((message, buffers[0]))

    def state(self, *names: str) -> str:
        return self._written({name: getattr(self.widget, name) for name in names})

    def __call__(self, kind: str, content: dict[str, object]) -> str:
        if kind == "set":
            before = {name: getattr(self.widget, name) for name in ("scene", "answer")}
            for name, value in content.items():
                setattr(self.widget, name, value)
            return self.state(*(name for name, value in before.items() if getattr(self.widget, name) is not value))
        self.widget._handle_custom_msg(content, [])
        sent, self.sent[:] = self._written(self.sent), []
        return sent

    @staticmethod
    def _written(value: object) -> str:
        return json.dumps(value, default=lambda raw: {"base64": base64.b64encode(raw).decode()})


@pytest.fixture(scope="module")
def images():
    """Images of a bump whose place is the latent point."""
    axis = torch.linspace(-2.0, 2.0, 12)

    def decode(z):
        return torch.exp(-((axis[:, None] - z[:, 1, None, None]) ** 2) - (axis - z[:, 0, None, None]) ** 2)[:, None]

    z = torch.randn(60, 2, generator=torch.Generator().manual_seed(0)).clamp(-2, 2)
    x = decode(z)

    def encode(x):
        mass = x[:, 0] / x.sum((1, 2, 3))[:, None, None]
        return torch.stack([(mass.sum(1) * axis).sum(1), (mass.sum(2) * axis).sum(1)], 1)

    return lg.explore((encode, decode), x, labels=["left" if a < 0 else "right" for a in z[:, 0]], points="mean")


@pytest.fixture(scope="module")
def cells():
    """Cells with counts of twelve genes and three latent dimensions."""
    anndata = pytest.importorskip("anndata")
    random = torch.Generator().manual_seed(0)
    weight = 0.4 * torch.randn(3, 12, generator=random).double()
    z = torch.randn(80, 3, generator=random).double()
    rates = (1.0 + z @ weight).exp()
    adata = anndata.AnnData(torch.poisson(rates, generator=random).numpy())
    adata.var_names = [f"GENE{k}" for k in range(12)]
    decoder = lg.fisher_rao(lambda z: 1.0 + z @ weight, "poisson", log=True)
    labels = ["left" if a < 0 else "right" for a in z[:, 0]]
    inverse = torch.linalg.pinv(weight)
    return lg.explore((lambda x: (x.log1p() - 1.0) @ inverse, decoder), adata, labels=labels, points="mean")


@pytest.fixture(params=LOOKS, ids=lambda look: f"{look[0]}-{look[1]}")
def page(browser, request):
    """A page for a widget, without a network."""
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 1000}, color_scheme=scheme, offline=True)
    opened = context.new_page()
    faults = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.look = f"{width}_{scheme}"
    yield opened
    assert faults == []
    context.close()


def _shown(page: Page, view: lg.explore) -> object:
    kernel, folder = _Kernel(view), files("latentgeo.explorer")
    page.expose_function("python", kernel)
    page.set_content(PAGE.replace("STYLE", folder.joinpath("explorer.css").read_text("utf-8")))
    state = kernel.state("selected", "axes", "scene", "answer")
    page.evaluate(MODEL, [folder.joinpath("explorer.js").read_text("utf-8"), state])
    root = page.locator(".latentgeo-explorer")
    expect(root).to_have_attribute("data-window", re.compile(","))
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    return root


def _picture(page: Page, name: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"explorer_{name}_{page.look}.png", full_page=True)


def _click(plot: object, x: float, y: float) -> None:
    box = plot.bounding_box()
    plot.click(position={"x": x * box["width"], "y": y * box["height"]})


def _window(root) -> list[float]:
    """Left, bottom, right and top of the part of the plane that is drawn."""
    return [float(number) for number in root.get_attribute("data-window").split(",")]


def _moved(root, before: list[float]) -> list[float]:
    expect(root).not_to_have_attribute("data-window", ",".join(f"{v}" for v in before), timeout=5_000)
    root.page.wait_for_timeout(100)  # the last frame
    return _window(root)


def test_a_drag_pans_and_wheel_keys_and_buttons_zoom(page, images):
    root = _shown(page, images)
    plot = root.locator("svg.lg-over")
    plot.scroll_into_view_if_needed()
    box, pair = plot.bounding_box(), root.get_attribute("data-pair")
    whole = _window(root)
    middle = (box["x"] + 0.5 * box["width"], box["y"] + 0.4 * box["height"])
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 60, middle[1] + 30, steps=5)
    page.mouse.up()
    panned = _moved(root, whole)
    width, height = whole[2] - whole[0], whole[3] - whole[1]
    scale = 500 / box["width"]  # of the drawing, whose plot is 432 by 412
    assert panned[0] - whole[0] == pytest.approx(-60 * scale / 432 * width, rel=0.02)
    assert panned[1] - whole[1] == pytest.approx(30 * scale / 412 * height, rel=0.02)
    assert panned[2] - panned[0] == pytest.approx(width)
    expect(root.locator("circle.lg-end")).to_have_count(2)
    assert root.get_attribute("data-pair") == pair  # a drag is no click
    # The place under the pointer stays there.
    page.mouse.move(*middle)
    page.mouse.wheel(0, -300)
    zoomed = _moved(root, panned)
    share = (zoomed[2] - zoomed[0]) / width
    assert share == pytest.approx(1.0015**-300, rel=1e-3)
    across = ((middle[0] - box["x"]) * scale - 60) / 432
    assert zoomed[0] + across * (zoomed[2] - zoomed[0]) == pytest.approx(panned[0] + across * width, abs=1e-3 * width)
    root.get_by_role("button", name="zoom out").click()
    wider = _moved(root, zoomed)
    assert wider[2] - wider[0] == pytest.approx(1.4 * (zoomed[2] - zoomed[0]))
    plot.focus()
    page.keyboard.press("+")
    again = _moved(root, wider)
    assert again == pytest.approx(zoomed)
    expect(root.locator(".lg-said")).to_have_text(re.compile("times as large"))
    page.keyboard.press("Shift+ArrowRight")
    aside = _moved(root, again)
    assert aside[0] - again[0] == pytest.approx(0.1 * (again[2] - again[0]))
    _picture(page, "zoomed")
    page.keyboard.press("0")
    assert _moved(root, aside) == pytest.approx(whole)
    _click(plot, 0.5, 0.5)
    expect(root.locator("circle.lg-end")).to_have_count(1)  # and a click is none


def test_a_point_shows_its_datum_and_escape_clears(page, images):
    root = _shown(page, images)
    plot = root.locator("svg.lg-over")
    assert root.locator(".lg-number").all_text_contents() == ["1", "2"]
    expect(root.locator(".lg-table .lg-unit")).to_have_text(["data units"] * 3 + ["latent units"])
    expect(root.locator(".lg-strip").first).to_contain_text("between the originals")
    box = plot.bounding_box()
    plot.hover(position={"x": 0.4 * box["width"], "y": 0.4 * box["height"]})
    thumbnail = root.locator(".lg-glance canvas")
    expect(thumbnail).to_be_visible(timeout=10_000)
    greys = thumbnail.evaluate("(c) => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size")
    assert greys > 4
    _picture(page, "images")
    plot.focus()
    page.keyboard.press("Escape")
    expect(root.locator("circle.lg-end")).to_have_count(0)
    expect(root.locator(".lg-table")).to_have_count(0)
    expect(root.locator(".lg-said")).to_have_text("cleared")
    expect(root.locator(".lg-glance")).to_be_hidden()
    _click(plot, 0.3, 0.3)
    _click(plot, 0.7, 0.6)
    expect(root.locator("polyline.lg-curve")).to_have_count(2, timeout=20_000)


def test_curves_away_from_the_codes_are_numbered_at_their_ends_and_shown(page):
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)).double()
    view = lg.explore((lambda x: 0.2 * x[:, :2], lambda z: torch.cat([z, z.square()], 1)), torch.cat([x, x**2], 1))
    root = _shown(page, view)
    plot, codes = root.locator("svg.lg-over"), _window(root)
    plot.focus()
    page.keyboard.press("0")
    all_ = _moved(root, codes)
    assert all_[0] < codes[0]
    assert all_[2] > codes[2]
    points = root.locator("polyline.lg-curve").first.get_attribute("points").split()
    ends = [[float(v) for v in points[k].split(",")] for k in (0, -1)]
    drawn = root.locator("circle.lg-end").evaluate_all(
        "found => found.map((c) => [+c.cx.baseVal.value, +c.cy.baseVal.value])"
    )
    assert drawn == [pytest.approx(end, abs=1e-3) for end in ends]
    lengths = root.locator("line.lg-leader").evaluate_all("found => found.map((line) => line.getTotalLength())")
    assert min(lengths) > 20  # from each code to its end
    _picture(page, "away")
    low, high = view.figure().subfigs[0].axes[0].get_xlim()
    assert [low, high] == pytest.approx([all_[0], all_[2]], rel=1e-5)


def test_features_keys_and_axes(page, cells):
    root = _shown(page, cells)
    plot = root.locator("svg.lg-over")
    described = page.locator(f"#{plot.get_attribute('aria-describedby')}")
    expect(described).to_contain_text("Escape clears")
    assert {"Escape", "+", "-", "0"} < set(plot.get_attribute("aria-keyshortcuts").split())
    page.mouse.move(0, 0)  # nothing is under the pointer: the keys begin with the first point
    plot.focus()
    for key in ("ArrowRight", "Enter", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    expect(root.locator(".lg-said")).to_have_text(re.compile(r"^2 \((left|right)\)$"))
    expect(root.locator(".lg-glance tr")).to_have_count(5, timeout=10_000)
    page.keyboard.press("Enter")
    expect(root).to_have_attribute("data-pair", "0,2", timeout=20_000)
    expect(root.locator(".lg-trends circle.lg-original")).to_have_count(12)
    horizontal, vertical = root.get_by_label("horizontal axis"), root.get_by_label("vertical axis")
    assert horizontal.locator("option:checked").inner_text() == "principal axis 1"
    before = root.locator("polyline.lg-curve").first.get_attribute("points")
    horizontal.select_option(label="z3")
    expect(plot).to_contain_text("z3", timeout=10_000)
    assert vertical.locator("option:checked").inner_text() == "z1"  # both are coordinates
    vertical.select_option(label="z3")
    assert horizontal.locator("option:checked").inner_text() == "z1"  # they change places
    expect(root.locator("polyline.lg-curve").first).not_to_have_attribute("points", before)
    expect(root).to_have_attribute("data-pair", "0,2")
    expect(root.locator(".lg-caption")).to_contain_text("two coordinates")
    expect(root.locator(".lg-table .lg-unit")).to_have_text(["standard deviations"] * 3 + ["latent units"])
    _picture(page, "features")
