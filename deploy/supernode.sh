#!/usr/bin/env bash
# Start a SuperNode that connects with TLS and its own key, and the executor of its ClientApps.
#
#   SUPERLINK=HOST:PORT CA=FILE KEY=FILE NODE_CONFIG="partition-id=0 num-partitions=3" \
#       [POLICY=FILE] [RUNTIME_PORT=9094] deploy/supernode.sh [OPTION...]
#
# CA is the authority's ca.crt, KEY what deploy/node_key.sh made. POLICY says what a run may do on
# this node (default: deploy/policy.yaml, the strict one); NODE_CONFIG may name it too, as policy.
# RUNTIME_PORT is of this machine alone, another one for every SuperNode on it. FLWR_HOME (default:
# .flwr in the project) keeps Flower's own files and, unless NODE_CONFIG has a state-dir, what clients
# remember, what runs have had and the audit log. Further options go to flower-supernode. Ends on
# SIGTERM, and with its executor.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
. "$(dirname "$0")/environment.sh"

need SUPERLINK CA KEY NODE_CONFIG
RUNTIME_PORT=${RUNTIME_PORT:-9094}
FLWR_HOME=${FLWR_HOME:-$root/.flwr/supernode-$RUNTIME_PORT}
named="(^|[[:space:]])policy=[\"']([^\"']*)[\"']"
if [[ $NODE_CONFIG =~ $named ]]; then
    POLICY=${BASH_REMATCH[2]}
else
    POLICY=${POLICY:-$root/deploy/policy.yaml}
    readable "$POLICY"
    POLICY=$(realpath "$POLICY")
    NODE_CONFIG+=" policy=\"$POLICY\""
fi
readable "$CA" "$KEY"
python -m fl_app.client.policy "$POLICY" || exit 2
secret
[[ $NODE_CONFIG == *state-dir=* ]] || NODE_CONFIG+=" state-dir=\"$FLWR_HOME/state\""

executor --clientapp --superexec-auth-secret-file "$secret_file" \
    --runtime-api-address "127.0.0.1:$RUNTIME_PORT"
exec flower-supernode --superlink "$SUPERLINK" --root-certificates "$CA" \
    --auth-supernode-private-key "$KEY" --node-config "$NODE_CONFIG" \
    --host 127.0.0.1 --port "$RUNTIME_PORT" --isolation process \
    --superexec-auth-secret-file "$secret_file" "$@" # keeps the pid that the executor watches
