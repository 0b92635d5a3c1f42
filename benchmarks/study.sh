#!/usr/bin/env bash
# study.sh STUDY MODEL [MINUTES] [DEVICE] [WORKERS]: run the study of STUDY.md, or resume it; needs no network.
# STUDY/prepared must be there, from `noise_study.py prepare`. Results are lines of STUDY/results.jsonl.
set -euo pipefail
study=$1 model=$2 minutes=${3:-5} device=${4:-cuda} workers=${5:-8}
here=$(cd "$(dirname "$0")" && pwd)
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONPATH="$here/..:${PYTHONPATH:-}"
python=${PYTHON:-python3}
"$python" "$here/noise_study.py" run "$study" --model "$model" --minutes "$minutes" --device "$device" --workers "$workers"
