#!/usr/bin/env bash
#SBATCH --job-name=proposals
#SBATCH --output=%x-%A-%a.log
#
# Extract proposals with the jobs of a Slurm array, each a part of the shards. Submit it from this project's folder:
#
#     job=$(sbatch --parsable --array=0-15 --gpus-per-task=1 tools/slurm/extract_proposals.sh CONFIG CHECKPOINT [options])
#     sbatch --dependency=afterok:$job tools/slurm/extract_proposals.sh CONFIG CHECKPOINT [options]
#
# Options are those of tools/extract_proposals.py, the same for all. The array starts at 0. The second job, which is no
# array, finishes the store, if the last of the array has not. PARTS=16 sbatch --array=3,7 ... does two of 16 parts again.
# PYTHON names the interpreter (default: .venv/bin/python if it exists, else python).
set -euo pipefail
if [ $# -lt 2 ]; then
    sed -n '5,12s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
cd "${SLURM_SUBMIT_DIR:-.}"  # Slurm runs a copy of this file, elsewhere
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=$(command -v "$python" || command -v python)
part=()
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
    part=(--part "$((SLURM_ARRAY_TASK_ID + 1))/${PARTS:-$SLURM_ARRAY_TASK_COUNT}")
fi
exec "$python" -m pipelines.cli proposals "$@" "${part[@]}"
