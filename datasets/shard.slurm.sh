#!/bin/bash
# Shards of one corpus by a SLURM array: every task writes one part, on any node, in any order; a last job proves that
# all parts are there and writes the index. A task that was killed or ran out of time is simply submitted again.
#
#   sbatch datasets/shard.slurm.sh OUT VIDEOS… [options of `hicmae shard`, e.g. --labels folder]
#   sbatch datasets/shard.slurm.sh OUT --card crema_d --root CREMA-D
#
# What is read and OUT lie where all nodes see them. Give the parts another number with `sbatch --array=1-128 …`, always from
# 1; the same number when a task is repeated (`sbatch --array=7 --export=ALL,PARTS=128 …`).
#SBATCH --job-name=hicmae-shard
#SBATCH --array=1-32
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --output=shard-%A_%a.log
set -euo pipefail

export OMP_NUM_THREADS=1 # a process per core, not threads
parts=${PARTS:-$SLURM_ARRAY_TASK_COUNT}
out=$1
shift

if [ "${MERGE:-0}" = 1 ]; then
    exec hicmae shard "$@" --out "$out" --merge
fi

# the first task asks for the last job, which waits until every task of this array has ended well; where nodes may not
# submit jobs, or after a repetition, give the merging command by hand
if [ "$SLURM_ARRAY_TASK_ID" = 1 ]; then
    sbatch --array=1 --cpus-per-task=1 --dependency="afterok:$SLURM_ARRAY_JOB_ID" --kill-on-invalid-dep=yes \
        --export=ALL,MERGE=1 --output="merge-%A.log" "$0" "$out" "$@"
fi

exec hicmae shard "$@" --out "$out" --part "$SLURM_ARRAY_TASK_ID/$parts" --workers "$SLURM_CPUS_PER_TASK"
