#!/usr/bin/env bash
# What the dist_*.sh scripts share:
#
#     tools/torchrun.sh STAGE PROCESSES NNODES NODE_RANK ADDRESS [options of the stage]
#
# On one machine without PORT, a free port is taken. OMP_NUM_THREADS=1 per process unless it is set.
set -euo pipefail
stage=$1 processes=$2 nodes=$3 rank=$4 address=$5
shift 5
tools=$(cd "$(dirname "$0")" && pwd)
for number in "$processes" "$nodes"; do
    case $number in
        '' | *[!0-9]* | 0) echo "error: $number is not a number of processes" >&2; exit 2 ;;
    esac
done
python=${PYTHON:-$tools/../.venv/bin/python}
[ -x "$python" ] || python=$(command -v "$python" || command -v python)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
if [ "$nodes" = 1 ] && [ -z "${PORT:-}" ]; then
    meet=(--standalone)
else
    meet=(--nnodes "$nodes" --node-rank "$rank" --master-addr "$address" --master-port "${PORT:-29500}")
fi
exec "$python" -m ovd.engine.launch --nproc-per-node "$processes" "${meet[@]}" \
    "$tools/$stage.py" "$@" --launcher pytorch
