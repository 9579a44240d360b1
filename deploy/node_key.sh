#!/usr/bin/env bash
# Make a node's key, elliptic curve P-384 (SECP384R1): FILE stays on the node, FILE.pub is what
# `flwr supernode register` takes.
#
#   deploy/node_key.sh FILE
set -euo pipefail

if [ $# -ne 1 ]; then
    sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
if [ -e "$1" ]; then
    echo "$1 exists: a key is never overwritten" >&2
    exit 1
fi
umask 077
mkdir -p "$(dirname "$1")"
ssh-keygen -q -t ecdsa -b 384 -N "" -C "$(basename "$1")" -f "$1"
