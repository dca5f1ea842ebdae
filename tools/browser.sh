#!/usr/bin/env bash
# A Chromium for `make test-web`: the one that is installed, else Playwright's own, else Debian's. Says what it does.
#
#     bash tools/browser.sh PYTHON
set -euo pipefail
python=${1:-.venv/bin/python}

starts() {
    "$python" - <<'PY'
import shutil
import sys

from playwright.sync_api import Error, sync_playwright

system = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
with sync_playwright() as driver:
    for path in (system, None):
        try:
            browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except Error:
            continue
        print(f"browser: {path or driver.chromium.executable_path} ({browser.version})")
        browser.close()
        sys.exit(0)
sys.exit(1)
PY
}

if ! "$python" -c "import playwright, gradio" 2>/dev/null; then
    echo "installing Gradio and Playwright, as requirements.lock has them"
    "$python" -m pip install --quiet --no-deps -r requirements.lock
fi
if starts; then exit 0; fi
echo "no Chromium or Chrome is installed: playwright install chromium"
if "$python" -m playwright install chromium && starts; then exit 0; fi
if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    echo "that gave no browser that starts: apt-get install chromium"
    apt-get update -qq && apt-get install -y -qq chromium && starts && exit 0
fi
echo "error: no browser could be installed; install Chromium or Chrome, and run make test-web again" >&2
exit 1
