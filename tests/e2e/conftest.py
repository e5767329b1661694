"""A Chromium for all pages."""

from __future__ import annotations

import pytest
from playwright.sync_api import sync_playwright

from tests.e2e.browser import chromium


@pytest.fixture(scope="module")
def browser():
    path = chromium()
    if path is None:
        pytest.fail("expected a Chromium; `make browser` says how to get one")
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu", *quiet])
        yield started
        started.close()
