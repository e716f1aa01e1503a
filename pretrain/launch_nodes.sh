#!/bin/bash
# Several machines without a scheduler: the same line on each of them, started within a few minutes of each other.
#
#   NODES=4 FIRST=node0.example:29500 bash pretrain/launch_nodes.sh hicmae_voxceleb2 --data.shards SHARDS --out RUN
#
# FIRST is the machine that the others can reach; SHARDS and RUN lie where all see them. Tried with two launchers on one
# machine; not on several.
set -euo pipefail
gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
processes=${PROCESSES:-$((gpus > 0 ? gpus : 1))}
exec torchrun --nnodes "${NODES:?how many machines}" --nproc-per-node "$processes" --max-restarts "${RESTARTS:-3}" \
    --rdzv-backend c10d --rdzv-endpoint "${FIRST:?host:port of one of them}" --rdzv-id "${JOB:-hicmae}" \
    -m hicmae pretrain "$@"
