#!/bin/bash
# A run, or a sweep, over the nodes of a SLURM job that form a Ray cluster (docs/container.md):
#
#   sbatch deploy/slurm.sh train impala --env PongNoFrameskip-v4 --runner cluster
#   sbatch deploy/slurm.sh sweep ppo --env CartPole-v1 --vary learning_rate=1e-3,3e-4
#
# Submit from a folder that all nodes see, with the environment in which TorchBeast is installed.
#SBATCH --job-name=torchbeast
#SBATCH --output=%x-%j.out
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@180
# With GPUs: sbatch --gpus-per-node=1 deploy/slurm.sh ...
set -euo pipefail
# Since Slurm 22.05 `srun` does not ask for what `sbatch` was given: a step would get one core.
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address)
address=${address%% *}:$((20000 + SLURM_JOB_ID % 10000)) # jobs that share a node do not meet

# Whoever reaches Ray's ports and has the token can run code as you.
umask 077
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$PWD/.ray-token-$SLURM_JOB_ID
python -c 'import secrets; print(secrets.token_hex())' > "$RAY_AUTH_TOKEN_PATH"
steps=()
trap 'kill "${steps[@]}" 2> /dev/null || true; rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT

srun --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --head --port="${address##*:}" --num-cpus="$SLURM_CPUS_PER_TASK" \
    --include-dashboard=false --disable-usage-stats --block &
steps+=($!)
if ((${#nodes[@]} > 1)); then
    srun --nodes=$((${#nodes[@]} - 1)) --ntasks=$((${#nodes[@]} - 1)) --exclude="$head" \
        ray start --address="$address" --num-cpus="$SLURM_CPUS_PER_TASK" \
        --disable-usage-stats --block &
    steps+=($!)
fi
timeout 300 python - "$address" "${#nodes[@]}" << 'PYTHON'
import sys, time, ray

while True:
    try:
        ray.init(address=sys.argv[1], log_to_driver=False)
        break
    except ConnectionError:  # the head is not up yet
        time.sleep(2)
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]):
    time.sleep(1)
PYTHON

# A job that is requeued keeps its id, so the run goes on from its checkpoint.
torchbeast "$@" --address "$address" --xpid "${XPID:-slurm-$SLURM_JOB_ID}" &
run=$!
requeue=false
trap 'kill -TERM "$run"' TERM
trap 'requeue=true; kill -TERM "$run"' USR1 # the time is almost over
code=0
while kill -0 "$run" 2> /dev/null; do # a signal ends `wait`, not the run
    wait "$run" && code=0 || code=$?
done
if $requeue && ((code)); then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
