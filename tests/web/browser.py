"""The Chromium that the page is tested in. As a script (tools/browser.sh): says which, and fails where none starts."""

import shutil
import sys

from playwright.sync_api import Browser, Error, Playwright, sync_playwright


def start(driver: Playwright) -> tuple[Browser, str] | None:
    """A headless one, the system's or else Playwright's own, and where it lies; None where there is none."""
    system = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    for path in (system, None):
        try:
            browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
            return browser, path or driver.chromium.executable_path
        except Error:
            continue
    return None


if __name__ == "__main__":
    with sync_playwright() as driver:
        started = start(driver)
        if started is None:
            sys.exit(1)
        print(f"browser: {started[1]} ({started[0].version})")
        started[0].close()
