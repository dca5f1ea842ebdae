#!/usr/bin/env bash
# Makes .venv with the locked versions and this project in it. Does nothing when that is done and what it was made from is
# unchanged. An interrupted installation is made again from the start. PYTHON=... chooses the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=.venv
stamp=$venv/.installed        # written last, so it exists only after a complete installation
unfinished=$venv/.installing  # exists while pip works: what a killed pip leaves behind cannot be trusted
wanted="$(cat requirements.lock pyproject.toml tools/setup.sh | cksum) in $PWD"

fail() { printf 'error: %s\n' "$*" >&2; exit 2; }

is_current() { [ -x $venv/bin/python ] && [ -f $stamp ] && [ "$(<$stamp)" = "$wanted" ]; }

# What keeps the interpreter $1 from serving; nothing if it serves.
problem_of() {
    command -v "$1" >/dev/null || { echo "is not there"; return; }
    "$1" - 2>/dev/null <<'PY' || echo "does not start"
import sys

version = "%d.%d" % sys.version_info[:2]
if not (3, 10) <= sys.version_info[:2] <= (3, 12):
    print("is Python " + version)
else:
    try:
        import ensurepip
        import venv
    except ImportError:
        print("has no venv module (Debian and Ubuntu: apt install python%s-venv)" % version)
PY
}

choose_python() {
    local candidate problem problems=""
    for candidate in ${PYTHON:-python3 python3.12 python3.11 python3.10}; do
        problem=$(problem_of "$candidate")
        if [ -z "$problem" ]; then echo "$candidate"; return; fi
        problems+="${problems:+; }$candidate $problem"
    done
    fail "needs Python 3.10, 3.11 or 3.12 with venv, but $problems. Install one, or name it: make PYTHON=/path/to/python3.11"
}

is_current && exit 0
if command -v flock >/dev/null; then  # a second make waits here for the first one's installation
    exec 9<tools/setup.sh
    flock 9
    is_current && exit 0
fi

if [ -e $unfinished ] || ! $venv/bin/python -m pip --version >/dev/null 2>&1; then
    python=$(choose_python)
    echo "setting up $venv with $("$python" --version), once: some minutes and about 6 GB, most of it PyTorch"
    "$python" -m venv --clear $venv
else
    echo "bringing $venv up to date with requirements.lock"
fi
touch $unfinished
rm -f $stamp
pip="$venv/bin/python -m pip --disable-pip-version-check install --no-deps"
$pip -r requirements.lock || fail "the installation stopped (see above); the same command starts it again"
$pip --quiet --no-build-isolation --editable . || fail "this project did not install (see above)"
rm $unfinished
echo "$wanted" >$stamp
