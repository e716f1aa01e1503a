#!/bin/bash
# DeepSpeed's own launcher, one machine or those of its host file; needs pip install 'hicmae[deepspeed]'.
#
#   bash pretrain/launch_deepspeed.sh hicmae_voxceleb2 --data.shards SHARDS [--loop.deepspeed JSON]
#
# HOSTS names a host file, GPUS how many of this machine. `pretrain/launch_node.sh … --engine deepspeed` does the same by
# torchrun, which starts a run again after a fault. Not tried by us with GPUs.
set -euo pipefail
where=()
[ -n "${HOSTS:-}" ] && where+=(--hostfile "$HOSTS")
[ -n "${GPUS:-}" ] && where+=(--num_gpus "$GPUS")
exec deepspeed "${where[@]}" --no_local_rank --module hicmae pretrain "$@" --engine deepspeed
