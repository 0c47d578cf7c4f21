"""A browser for the tests of pages: Debian's chromium, or the one that Playwright installs."""
import os
import shutil

import pytest

REASON = "no browser here: apt-get install chromium, or python -m playwright install chromium"


def launch(playwright):
    "A headless Chromium, or None."
    names = ("chromium", "chromium-browser", "google-chrome")
    places = [os.environ.get("CHROMIUM"), *map(shutil.which, names)]
    places = [place for place in places if place] + [None]  # None: Playwright's own
    for place in dict.fromkeys(places):
        if place is None and not os.path.exists(playwright.chromium.executable_path): continue
        try: return playwright.chromium.launch(executable_path=place, args=["--no-sandbox"])
        except Exception as e: print(f"{place} does not start: {e}")
    return None


@pytest.fixture(scope="module")  # Playwright keeps an event loop running: not beyond its tests
def browser():
    "One browser for a file of tests; skips where there is none."
    api = pytest.importorskip("playwright.sync_api", reason=REASON)
    with api.sync_playwright() as playwright:
        found = launch(playwright)
        if found is None: (pytest.fail if os.environ.get("CI") else pytest.skip)(REASON)
        yield found
        found.close()
