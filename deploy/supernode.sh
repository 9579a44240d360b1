#!/usr/bin/env bash
# Start a SuperNode that connects with TLS and its own key, and the executor of its ClientApps.
#
#   SUPERLINK=HOST:PORT CA=FILE KEY=FILE NODE_CONFIG="partition-id=0 num-partitions=3" \
#       [RUNTIME_PORT=9094] deploy/supernode.sh [OPTION...]
#
# CA is the authority's ca.crt, KEY what deploy/node_key.sh made. RUNTIME_PORT is of this machine
# alone, another one for every SuperNode on it. FLWR_HOME (default: .flwr in the project) keeps
# Flower's own files and, unless NODE_CONFIG has a state-dir, what clients remember. Further options
# go to flower-supernode. Ends on SIGTERM.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
. "$(dirname "$0")/environment.sh"

need SUPERLINK CA KEY NODE_CONFIG
RUNTIME_PORT=${RUNTIME_PORT:-9094}
FLWR_HOME=${FLWR_HOME:-$root/.flwr/supernode-$RUNTIME_PORT}
readable "$CA" "$KEY"
secret
[[ $NODE_CONFIG == *state-dir=* ]] || NODE_CONFIG+=" state-dir=\"$FLWR_HOME/state\""

python -m fl_app.warm_superexec --clientapp --parent-pid $$ --served-pid $$ \
    --runtime-api-address "127.0.0.1:$RUNTIME_PORT" \
    --superexec-auth-secret-file "$secret_file" &
exec flower-supernode --superlink "$SUPERLINK" --root-certificates "$CA" \
    --auth-supernode-private-key "$KEY" --node-config "$NODE_CONFIG" \
    --host 127.0.0.1 --port "$RUNTIME_PORT" --isolation process \
    --superexec-auth-secret-file "$secret_file" "$@" # keeps the pid that the executor watches
