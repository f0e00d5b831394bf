#!/bin/bash
# Slurm prolog: no job starts on a GPU that is not what its sheet says. Name it in slurm.conf as Prolog=; a non-zero
# exit code drains the node and requeues the job. Slurm's own PrologEpilogTimeout must exceed the budget times the GPUs.
# Only a GPU that fails (1) or is missing (4) drains: an error of the setup (2) or an open question (3) is logged.
set -u
IFS=, read -r -a gpus <<<"${SLURM_JOB_GPUS:-}"
unset CUDA_VISIBLE_DEVICES # SLURM_JOB_GPUS counts all GPUs of the node, by PCI order
for gpu in ${gpus[@]+"${gpus[@]}"}; do
    gpuassay gate --budget 30s --device "$gpu" | logger -t gpuassay 2>/dev/null
    code=${PIPESTATUS[0]}
    if [[ $code == 1 || $code == 4 ]]; then
        echo "gpuassay: GPU $gpu refused (exit code $code)" >&2
        exit 1
    fi
done
exit 0
