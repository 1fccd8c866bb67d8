#!/bin/bash
# Embed a dataset with a SLURM array: one task a shard, all into one store.
#
#   export MODEL=dinov2_vitl14 DATASET=nih ROOT=/data/nih FEATCACHE_HOME=/shared/features
#   featcache labels --dataset $DATASET --root $ROOT       # once: hashes the files, so that no task has to
#   job=$(sbatch --parsable examples/slurm_array.sh)
#   SHARD=all sbatch --array=1 --dependency=afterany:$job examples/slurm_array.sh
#
# The last line computes what a failed task left and packs (--format hdf5): its exit code says whether all is there.
# Run all of it again at any time. To repeat some tasks: sbatch --array=3,5 examples/slurm_array.sh
#
# Where the nodes share no disk, give each task a home of its own, for example FEATCACHE_HOME=$SLURM_TMPDIR/features,
# copy those homes to one place and join their stores:
#   featcache merge homes/*/$DATASET/*.zarr --into /shared/features
#
#SBATCH --job-name=featcache
#SBATCH --array=1-8
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=08:00:00
#SBATCH --signal=B:TERM@120
# The signal, two minutes before the end of the time: featcache commits what is finished and stops.

SHARDS=${SHARDS:-8} # as in --array=1-8; not SLURM_ARRAY_TASK_COUNT, which is smaller when some tasks are repeated
SHARD=${SHARD:-$SLURM_ARRAY_TASK_ID/$SHARDS}
[ "$SHARD" = all ] || set -- --shard "$SHARD" "$@"

# The precision is named because nodes with different GPUs would choose different ones, and that is two stores.
# exec: the signal goes to featcache itself.
exec featcache extract --model "$MODEL" --dataset "$DATASET" --root "$ROOT" --precision "${PRECISION:-fp32}" "$@"
