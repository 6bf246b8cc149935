#!/bin/bash
# A run whose learners are started by torchrun on every node of a SLURM job (docs/container.md):
#
#   sbatch deploy/slurm_torchrun.sh train ppo --env CartPole-v1 --savedir FOLDER_OF_ALL_NODES
#
# Submit from a folder that all nodes see, with the environment in which TorchBeast is installed.
#SBATCH --job-name=torchbeast
#SBATCH --output=%x-%j.out
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
# With GPUs: LEARNERS=8 sbatch --gpus-per-node=8 deploy/slurm_torchrun.sh ...
set -euo pipefail
# Since Slurm 22.05 `srun` does not ask for what `sbatch` was given: a step would get one core.
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
# Nobody who meets there is asked who he is: the nodes must be in a network that you trust.
srun torchrun \
    --nnodes="${#nodes[@]}" --nproc-per-node="${LEARNERS:-1}" \
    --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" \
    --rdzv-endpoint="${nodes[0]}:$((20000 + SLURM_JOB_ID % 10000))" \
    -m torchbeast "$@" --xpid "${XPID:-slurm-$SLURM_JOB_ID}"
