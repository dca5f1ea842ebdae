"""A server of the page, and a browser to look at it."""

import os
from types import SimpleNamespace

import pytest
from web_world import common_class, start, write_run, write_scenes

pytest.importorskip("gradio", reason='needs Gradio: pip install "ovd[web]"')


def pytest_configure(config):
    config.addinivalue_line("markers", "web: needs a browser (make test-web sets one up)")


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """``ovd serve`` with the demo model, a small region store and a run; limits that small files reach."""
    root = tmp_path_factory.mktemp("served")
    data = write_scenes(root / "data")
    name, count = common_class(data)
    runs = write_run(root / "run", data)
    server = start("--index", data / "regions" / "train", "--runs", runs, "--max-upload", "2MB", "--max-pixels", "4M")
    yield SimpleNamespace(url=server.url, server=server, data=data, common=name, count=count)
    server.stop()


@pytest.fixture(scope="module")  # its event loop runs as long as it does
def chromium():
    """A headless Chromium: Playwright's own, or the system's; skips where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: make test-web sets it up")
    from browser import start as start_browser

    with playwright.sync_playwright() as driver:
        started = start_browser(driver)
        if started is None:
            missing = pytest.fail if os.environ.get("OVD_NEED_BROWSER") else pytest.skip
            missing("no Chromium or Chrome is installed: make test-web installs one")
        yield started[0]
        started[0].close()
