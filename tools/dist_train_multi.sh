#!/usr/bin/env bash
# Train on several machines; run it on each, with its own NODE_RANK (0 to NNODES - 1). ADDRESS is the one of rank 0.
#
#     tools/dist_train_multi.sh CONFIG GPUS NNODES NODE_RANK ADDRESS [options of tools/train.py]
#
# GPUS counts those of one machine. The machines need the same code, data and work directory (or a shared disk).
# PYTHON names the interpreter (default: .venv/bin/python if it exists, else python); PORT the port they meet at.
set -euo pipefail
if [ $# -lt 5 ]; then
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
config=$1 processes=$2 nodes=$3 rank=$4 address=$5
shift 5
exec "$(dirname "$0")/torchrun.sh" train "$processes" "$nodes" "$rank" "$address" "$config" "$@"
