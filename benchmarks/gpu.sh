#!/usr/bin/env bash
# Every benchmark that needs a GPU, without a network. On an H200 vLLM took 100 s to start for each side, and the shape
# 1.5b 4.5 minutes in all; the other parts have not been timed on a GPU.
#
#     bash benchmarks/gpu.sh TOKENIZER POOL MINILM GROUPS.jsonl RESULTS.md [DEVICE]
#
# TOKENIZER is a model folder with Qwen2.5's tokenizer and chat template, POOL a folder of `labelkit pool` (6,750 pairs),
# MINILM the folder of all-MiniLM-L6-v2, GROUPS.jsonl a file of `benchmarks/training_data.py`. With DEVICE cpu everything
# runs at a small size, to try it where there is no GPU. PYTHON names the interpreter.
set -u
tokenizer=$1 pool=$2 model=$3 groups=$4 results=$5 device=${6:-cuda}
python=${PYTHON:-python3}
here=$(dirname "$0")
export HF_HUB_OFFLINE=1 PYTHONPATH="$here/..:${PYTHONPATH:-}"

annotation() { # a benchmark that fails does not keep the others from running
    local start=$SECONDS
    "$python" "$here/annotation_speed.py" "$tokenizer" "$pool" "$@" --device "$device" --results "$results"
    echo "annotation_speed.py $*: exit code $?, $((SECONDS - start)) s"
}

if [ "$device" = cpu ]; then
    annotation --shape tiny --pairs 300 --rounds 1 --shuffled
else
    annotation --shape 1.5b --rounds 2 --shuffled
    annotation --shape 7b --rounds 1
fi
bash "$here/gpu_training.sh" "$model" "$groups" "$results" "$device"
