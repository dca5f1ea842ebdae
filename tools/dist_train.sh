#!/usr/bin/env bash
# Train with several processes on this machine: one GPU each, or one CPU process each where there is no GPU.
#
#     tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
#
# PYTHON names the interpreter (default: .venv/bin/python if it exists, else python); PORT the port they meet at.
set -euo pipefail
if [ $# -lt 2 ]; then
    sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
config=$1 processes=$2
shift 2
exec "$(dirname "$0")/torchrun.sh" train "$processes" 1 0 127.0.0.1 "$config" "$@"
