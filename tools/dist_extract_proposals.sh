#!/usr/bin/env bash
# Extract proposals with several processes on this machine, each doing shards of its own: one GPU each, or one CPU process.
#
#     tools/dist_extract_proposals.sh CONFIG CHECKPOINT GPUS [options of tools/extract_proposals.py]
#
# PYTHON names the interpreter (default: .venv/bin/python if it exists, else python); PORT the port they meet at.
set -euo pipefail
if [ $# -lt 3 ]; then
    sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
config=$1 checkpoint=$2 processes=$3
shift 3
exec "$(dirname "$0")/torchrun.sh" extract_proposals "$processes" 1 0 127.0.0.1 "$config" "$checkpoint" "$@"
