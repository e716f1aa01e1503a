#!/bin/bash
# One machine, all of its GPUs (or CPU processes), by torchrun; started again up to 3 times from the last checkpoint.
#
#   bash pretrain/launch_node.sh hicmae_voxceleb2 --data.shards SHARDS [--engine fsdp] [any option of `hicmae pretrain`]
#
# PROCESSES sets how many (default: the GPUs, or 1). Tried with two CPU processes; not with several GPUs.
set -euo pipefail
gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
processes=${PROCESSES:-$((gpus > 0 ? gpus : 1))}
cores=$(nproc)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores / processes > 0 ? cores / processes : 1))}
exec torchrun --standalone --nproc-per-node "$processes" --max-restarts "${RESTARTS:-3}" -m hicmae pretrain "$@"
