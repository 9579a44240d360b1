#!/usr/bin/env bash
# Tell Flower's commands (flwr run, list, log, stop, supernode ...) where the SuperLink is.
#
#   [FLWR_HOME=FOLDER] deploy/connect.sh HOST:PORT CA
#
# Writes config.toml into FLWR_HOME (default: ~/.flwr); its connection is called "thinwire" and is
# the default one. CA is the authority's ca.crt.
set -euo pipefail
umask 077

if [ $# -ne 2 ]; then
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
[ -r "$2" ] || { echo "$2 cannot be read" >&2; exit 2; }
[[ $1 == *:* ]] || { echo "$1 has no port: give HOST:PORT" >&2; exit 2; }
home=${FLWR_HOME:-$HOME/.flwr}
mkdir -p "$home"
if [ -e "$home/config.toml" ]; then
    mv "$home/config.toml" "$home/config.toml.before"
    echo "the connections before are in $home/config.toml.before"
fi
cat >"$home/config.toml" <<EOF
[superlink]
default = "thinwire"

[superlink.thinwire]
address = "$1"
root-certificates = "$(realpath "$2")"
EOF
echo "flwr talks to $1: $home/config.toml"
