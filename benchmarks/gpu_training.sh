#!/usr/bin/env bash
# The benchmarks of training and encoding that need a GPU, without a network. They have not been timed: one
# run on an H200 was ended after 190 s without a table.
#
#     bash benchmarks/gpu_training.sh MINILM GROUPS.jsonl RESULTS.md [DEVICE]
#
# MINILM is the folder of all-MiniLM-L6-v2, or of its tokenizer alone: then the weights are random. GROUPS.jsonl is a
# file of `benchmarks/training_data.py`. With DEVICE cpu everything runs at a small size, to try it where there is no
# GPU. PYTHON names the interpreter.
set -u
model=$1 groups=$2 results=$3 device=${4:-cuda}
python=${PYTHON:-python3}
here=$(dirname "$0")
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=true PYTHONPATH="$here/..:${PYTHONPATH:-}"

run() { # a benchmark that fails does not keep the others from running
    local start=$SECONDS
    "$python" "$here/$1" "${@:2}" --device "$device" --results "$results" 2> >(grep -v 'step/s\|Loading weights' >&2)
    echo "$1: exit code $?, $((SECONDS - start)) s"
}

if [ "$device" = cpu ]; then
    run fit_speed.py "$model" "$groups" --shape minilm --batch 4 --steps 4 --rounds 1 --length 64
    run encode_speed.py "$model" "$groups" --texts 64 --rounds 1 --length 64
    run rerank_speed.py --queries 1 --passages 4 --rounds 1
    run contrast_memory.py --queries 256 --passages 2048 --rounds 1
    exit
fi
run fit_speed.py "$model" "$groups" --shape minilm --case real --batch 64 --steps 60 --rounds 2 --precision bf16 --profile
run fit_speed.py "$model" "$groups" --shape bert-base --case real --batch 32 --steps 40 --rounds 1 --precision bf16 \
    --profile
run encode_speed.py "$model" "$groups" --shape minilm bert-base qwen3-0.6b --texts 4000 --precision bf16 --rounds 2
run fit_speed.py "$model" "$groups" --shape qwen3-0.6b --case real --batch 16 --steps 15 --rounds 1 --precision bf16
run rerank_speed.py --queries 100 --passages 100 --rounds 3
run contrast_memory.py --rounds 5
"$python" -m trainer verify --device "$device"
