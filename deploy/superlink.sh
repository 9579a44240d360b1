#!/usr/bin/env bash
# Start a SuperLink with TLS and node authentication, and the executor of its ServerApps.
#
#   CERTIFICATES=FOLDER [HOST=0.0.0.0] [PORT=9091] [DATABASE=FILE] deploy/superlink.sh [OPTION...]
#
# CERTIFICATES holds what deploy/certificates.sh made. With DATABASE runs and registered nodes
# survive a restart. FLWR_HOME (default: .flwr in the project) keeps Flower's own files. Further
# options go to flower-superlink. Ends on SIGTERM; stop runs first, with `flwr stop`. Ends with its
# executor, too.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
. "$(dirname "$0")/environment.sh"

need CERTIFICATES
HOST=${HOST:-0.0.0.0}
PORT=${PORT:-9091}
FLWR_HOME=${FLWR_HOME:-$root/.flwr/superlink}
readable "$CERTIFICATES"/{ca.crt,server.crt,server.key}
secret

options=(
    --host "$HOST" --port "$PORT" --enable-supernode-auth
    --ssl-ca-certfile "$CERTIFICATES/ca.crt"
    --ssl-certfile "$CERTIFICATES/server.crt" --ssl-keyfile "$CERTIFICATES/server.key"
    --isolation process --superexec-auth-secret-file "$secret_file"
    --disable-runtime-dependency-installation
)
if [ -n "${DATABASE:-}" ]; then
    [ -w "$(dirname "$DATABASE")" ] || refuse "DATABASE=$DATABASE: its folder is not there, or cannot be written to"
    [ ! -e "$DATABASE" ] || chmod go= "$DATABASE"
    options+=(--database "$DATABASE")
fi

reached=$HOST
[ "$HOST" != 0.0.0.0 ] || reached=127.0.0.1
executor --serverapp --superexec-auth-secret-file "$secret_file" \
    --runtime-api-address "$reached:$PORT" --root-certificates "$CERTIFICATES/ca.crt"
exec flower-superlink "${options[@]}" "$@" # keeps the pid that the executor watches
