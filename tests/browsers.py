"""A pytest plugin: a browser to look at pages with."""

import shutil

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        pytest.skip("no chromium here: apt-get install chromium")
    sync = pytest.importorskip("playwright.sync_api")
    with sync.sync_playwright() as started:
        # Beside the flags of Playwright, which keep it from asking the network by itself.
        flags = ["--no-sandbox", "--disable-gpu", "--disable-quic"]
        browser = started.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()
