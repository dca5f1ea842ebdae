#!/usr/bin/env bash
#SBATCH --job-name=embed-regions
#SBATCH --output=%x-%A-%a.log
#
# Embed regions with the jobs of a Slurm array, each a part of the shards. Submit it from this project's folder:
#
#     job=$(sbatch --parsable --array=0-15 --gpus-per-task=1 tools/slurm/embed_regions.sh CONFIG [options])
#     sbatch --dependency=afterok:$job tools/slurm/embed_regions.sh CONFIG [options]
#
# Options are those of tools/region_embeddings.py, the same for all. The array starts at 0. The second job, which is no
# array, finishes the store, if the last of the array has not. PARTS=16 sbatch --array=3,7 ... does two of 16 parts again.
# PYTHON names the interpreter (default: .venv/bin/python if it exists, else python).
set -euo pipefail
if [ $# -lt 1 ]; then
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
exec "$python" -m pipelines.cli embed-regions "$@" "${part[@]}"
