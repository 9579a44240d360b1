#!/usr/bin/env bash
# Make a certificate authority and the SuperLink's certificate, elliptic curve P-384.
#
#   deploy/certificates.sh FOLDER HOST...     HOST: names and addresses that nodes connect to
#
# FOLDER gets ca.crt (goes to every node and to who submits), ca.key (keep it offline), server.crt
# and server.key (stay with the SuperLink). An authority that is already in FOLDER is kept: run it
# again to renew the server's certificate. localhost and 127.0.0.1 are always in it, since the
# SuperLink's own executor connects there. DAYS and CA_DAYS say how long they hold.
set -euo pipefail

if [ $# -lt 2 ]; then
    sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
folder=$1
shift
umask 077
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

names="DNS:localhost,IP:127.0.0.1"
for host in "$@"; do
    if [[ $host =~ ^[0-9.]+$ || $host == *:* ]]; then
        names+=",IP:$host"
    else
        names+=",DNS:$host"
    fi
done

curve=(-newkey ec -pkeyopt ec_paramgen_curve:P-384 -sha384 -noenc)
if [ ! -e "$folder/ca.key" ]; then
    openssl req -x509 "${curve[@]}" -days "${CA_DAYS:-3650}" -subj "/CN=thinwire authority" \
        -addext "basicConstraints=critical,CA:TRUE,pathlen:0" \
        -addext "keyUsage=critical,keyCertSign,cRLSign" \
        -keyout "$folder/ca.key" -out "$folder/ca.crt" 2>/dev/null
fi
request=$(mktemp)
trap 'rm -f "$request"' EXIT
openssl req -new "${curve[@]}" -subj "/CN=thinwire superlink" -keyout "$folder/server.key" \
    -out "$request" 2>/dev/null
openssl x509 -req -in "$request" -CA "$folder/ca.crt" -CAkey "$folder/ca.key" -sha384 \
    -days "${DAYS:-365}" -out "$folder/server.crt" -extfile <(
        echo "basicConstraints=critical,CA:FALSE"
        echo "keyUsage=critical,digitalSignature"
        echo "extendedKeyUsage=serverAuth"
        echo "subjectAltName=$names"
    ) 2>/dev/null
chmod 644 "$folder/ca.crt" "$folder/server.crt"
echo "$folder/server.crt is for $names until $(openssl x509 -in "$folder/server.crt" -noout -enddate | cut -d= -f2)"
