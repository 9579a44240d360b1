#!/usr/bin/env bash
# Start one SuperNode for each GPU of this machine, and stop them together.
#
#   SUPERLINK=HOST:PORT CA=FILE KEYS=FOLDER FIRST=0 PARTITIONS=8 [DATA=FOLDER] [POLICY=FILE] \
#       deploy/gpus.sh [GPU...]
#
# GPU: indices as nvidia-smi has them; all of this machine if none is given. The i-th serves
# partition FIRST + i of PARTITIONS with the key KEYS/node-(FIRST + i), and with DATA the rows
# DATA/node-(FIRST + i).jsonl. All have the POLICY, see supernode.sh. Runtime ports count up from
# RUNTIME_PORT (9094). Logs go to LOGS (default: the current folder). Ends when one of them ends, or on SIGTERM or Ctrl-C.
set -euo pipefail
umask 077

here=$(cd "$(dirname "$0")" && pwd)
: "${SUPERLINK:?}" "${CA:?}" "${KEYS:?}" "${FIRST:?}" "${PARTITIONS:?}"
gpus=("$@")
if [ ${#gpus[@]} -eq 0 ]; then
    mapfile -t gpus < <(nvidia-smi --query-gpu=index --format=csv,noheader)
fi

started=()
trap 'kill "${started[@]}" 2>/dev/null || true; wait' EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
for i in "${!gpus[@]}"; do
    part=$((FIRST + i))
    config="partition-id=$part num-partitions=$PARTITIONS"
    [ -z "${DATA:-}" ] || config+=" data-path=\"$DATA/node-$part.jsonl\""
    port=$((${RUNTIME_PORT:-9094} + i))
    CUDA_VISIBLE_DEVICES=${gpus[i]} KEY=$KEYS/node-$part NODE_CONFIG=$config RUNTIME_PORT=$port \
        FLWR_HOME=${FLWR_HOME:-$HOME/.flwr}/node-$part SUPERLINK=$SUPERLINK CA=$CA \
        "$here/supernode.sh" >"${LOGS:-.}/node-$part.log" 2>&1 &
    started+=($!)
    echo "node-$part: GPU ${gpus[i]}, pid $!, ${LOGS:-.}/node-$part.log"
done
wait -n "${started[@]}"
