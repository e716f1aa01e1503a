#!/bin/bash
# Pretraining by SLURM on any number of nodes, one task per GPU. Preempted, or out of time, the run writes a checkpoint
# and is queued again; so it is where a node or a process dies, at most RETRIES times.
#
#   sbatch --nodes 4 pretrain/pretrain.slurm.sh hicmae_voxceleb2 --data.shards SHARDS --out RUN [--engine fsdp]
#
# SHARDS and RUN lie where all nodes see them. The corpus: pretrain/shard_voxceleb2.slurm.sh. Tried with stubs in place of
# SLURM; not on a cluster by us.
#SBATCH --job-name=hicmae-pretrain
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR1@300
#SBATCH --output=pretrain-%j.log
set -uo pipefail

export OMP_NUM_THREADS=1
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT=${MASTER_PORT:-29500} WORLD_SIZE=$SLURM_NTASKS

# five minutes before the end all processes get USR1: they finish the step, one writes, and all leave with code 75
srun --kill-on-bad-exit=1 bash -c \
    'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID exec hicmae pretrain "$@"' pretrain "$@"
code=$?

# 0 is done, 2 a mistake that the message explains; anything else goes on from the last checkpoint
if [ "$code" -ne 0 ] && [ "$code" -ne 2 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "${RETRIES:-20}" ]; then
    echo "left with code $code after ${SLURM_RESTART_COUNT:-0} restarts: queued again"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
