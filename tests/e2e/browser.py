"""Where a Chromium is: `python -m tests.e2e.browser` prints its path, or fails and says how to get one."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path


def chromium() -> str | None:
    """Path of the system's Chromium, of Chrome, or of Playwright's own, whichever is there first."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        from playwright.sync_api import sync_playwright

        with sync_playwright() as playwright:
            own = playwright.chromium.executable_path
        found = own if Path(own).is_file() else None
    return found


if __name__ == "__main__":
    path = chromium()
    print(path or "no Chromium: install your system's package, or call .venv/bin/playwright install chromium")
    sys.exit(path is None)
