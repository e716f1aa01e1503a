#!/bin/bash
# The pretraining corpus by a SLURM array: 256 tasks shard VoxCeleb2's dev part, cropped as the published models saw it
# (rows 0 to 160, columns 32 to 192 of the release's faces); a last job proves that all parts are there.
#
#   bash pretrain/shard_voxceleb2.slurm.sh ROOT OUT [options of sbatch, e.g. --partition=cpu]
#
# ROOT holds `dev/mp4`; both lie where all nodes see them. Then: hicmae pretrain hicmae_voxceleb2 --data.shards OUT
# Not tried on a cluster by us.
set -euo pipefail
root=$1 out=$2
shift 2
exec sbatch --array=1-256 "$@" "$(dirname "$0")/../datasets/shard.slurm.sh" "$out" \
    --card voxceleb2 --root "$root" --box "[32,0,160,160]" --size 160
