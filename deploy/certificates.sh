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

refuse() {
    echo "certificates.sh: $1" >&2
    exit 2
}

[ -e "$folder/ca.key" ] || [ ! -e "$folder/ca.crt" ] ||
    refuse "$folder has ca.crt and no ca.key: put the authority's key there, or choose another FOLDER"
names="DNS:localhost,IP:127.0.0.1"
for host in "$@"; do
    if [[ $host =~ ^[0-9.]+$ || $host =~ ^[0-9a-fA-F:]+:[0-9a-fA-F:]*$ ]]; then
        names+=",IP:$host"
    elif [[ $host =~ ^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$ ]]; then
        names+=",DNS:$host"
    else
        refuse "'$host' is no name and no address: give it without https:// and without a port"
    fi
done

scratch=$(mktemp -d "$folder/.new-XXXXXX") # what is there is replaced by what is whole
trap 'rm -rf "$scratch"' EXIT
# Say what OpenSSL says only if it fails.
run() {
    openssl "$@" 2>"$scratch/said" || {
        cat "$scratch/said" >&2
        refuse "openssl $1 failed; nothing was changed"
    }
}

curve=(-newkey ec -pkeyopt ec_paramgen_curve:P-384 -sha384 -nodes)
authority=$folder
if [ ! -e "$folder/ca.key" ]; then
    authority=$scratch
    run req -x509 "${curve[@]}" -days "${CA_DAYS:-3650}" -subj "/CN=thinwire authority" \
        -addext "basicConstraints=critical,CA:TRUE,pathlen:0" \
        -addext "keyUsage=critical,keyCertSign,cRLSign" \
        -keyout "$scratch/ca.key" -out "$scratch/ca.crt"
fi
run req -new "${curve[@]}" -subj "/CN=thinwire superlink" -keyout "$scratch/server.key" \
    -out "$scratch/request"
cat >"$scratch/extensions" <<EOF
basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth
subjectAltName=$names
EOF
run x509 -req -in "$scratch/request" -CA "$authority/ca.crt" -CAkey "$authority/ca.key" -sha384 \
    -set_serial "0x$(openssl rand -hex 16)" -days "${DAYS:-365}" -out "$scratch/server.crt" \
    -extfile "$scratch/extensions"
[ "$authority" = "$folder" ] || mv "$scratch/ca.key" "$scratch/ca.crt" "$folder"
mv "$scratch/server.key" "$scratch/server.crt" "$folder"
chmod 644 "$folder/ca.crt" "$folder/server.crt"
echo "$folder/server.crt is for $names until $(openssl x509 -in "$folder/server.crt" -noout -enddate | cut -d= -f2)"
