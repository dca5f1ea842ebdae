#!/usr/bin/env bash
# Embed regions with several processes on this machine, each doing shards of its own: one GPU each, or one CPU process.
#
#     tools/dist_embed_regions.sh CONFIG GPUS [options of tools/region_embeddings.py]
#
# PYTHON names the interpreter (default: .venv/bin/python if it exists, else python); PORT the port they meet at.
set -euo pipefail
if [ $# -lt 2 ]; then
    sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
config=$1 processes=$2
shift 2
exec "$(dirname "$0")/torchrun.sh" region_embeddings "$processes" 1 0 127.0.0.1 "$config" "$@"
