#!/usr/bin/env bash
# A Chromium for `make test-web`: the one that is installed, else Playwright's own, else Debian's. Says what it does.
#
#     bash tools/browser.sh PYTHON
set -euo pipefail
python=${1:-.venv/bin/python}

starts() { "$python" tests/web/browser.py; }

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
