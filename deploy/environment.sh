# shellcheck shell=bash
# Sourced by superlink.sh and supernode.sh: what both ask of Flower, and where they keep their
# things. `refuse` and `need` say what is wrong and end the script.
umask 077 # memories, databases and logs tell of data: they are this user's alone
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bin=${BIN:-$root/.venv/bin}
[ -x "$bin/flower-superlink" ] || {
    echo "$(basename "$0"): $bin has no flower-superlink: run make setup in $root, or set BIN" >&2
    exit 2
}
export PATH="$bin:$PATH"
export FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1
export FLWR_SUPEREXEC_TASK_POLL_INTERVAL=${FLWR_SUPEREXEC_TASK_POLL_INTERVAL:-0.2}
export HF_HUB_DISABLE_TELEMETRY=1 PYTHONUNBUFFERED=1
# This machine reaches itself without a proxy, whatever it needs to reach others.
direct=127.0.0.1,localhost,::1
no_proxy=${no_proxy:-${NO_PROXY:-}}
no_grpc_proxy=${no_grpc_proxy:-$no_proxy}
export no_grpc_proxy=${no_grpc_proxy:+$no_grpc_proxy,}$direct
export no_proxy=${no_proxy:+$no_proxy,}$direct
export NO_PROXY=$no_proxy
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # torch's are federation.torch_threads
export PYTHONWARNINGS=ignore::DeprecationWarning,ignore::FutureWarning

refuse() {
    echo "$(basename "$0"): $1" >&2
    exit 2
}

need() {
    local name
    for name in "$@"; do
        [ -n "${!name:-}" ] || refuse "$name is not set; see $root/docs/deployment.md"
    done
}

readable() {
    local file
    for file in "$@"; do
        [ -r "$file" ] || refuse "$file cannot be read"
    done
}

# The executor proves with a secret that it belongs to this start of this process: without one
# anybody who reaches the port could take a task.
secret() {
    export FLWR_HOME=${FLWR_HOME:?}
    own_folder "$FLWR_HOME"
    secret_file=$FLWR_HOME/superexec.secret
    rm -f "$secret_file"
    head -c 32 /dev/urandom >"$secret_file"
}

# Start the executor of the tasks of what this script becomes, with options of its own. If it ends
# first, killed for want of memory, say, that ends too: alone it would accept work and do none.
executor() {
    (
        exec 3>&2 2>/dev/null # the shell would say that it was killed, too
        ended=0
        python -m fl_app.simulation.superexec "$@" --parent-pid $$ --served-pid $$ 2>&3 3>&- ||
            ended=$?
        kill -0 $$ || exit 0 # what it served has ended first, as it should
        echo "$(basename "$0"): the executor ended with status $ended (137: it was killed, perhaps for" \
            "want of memory). Nothing would run here, so this ends too: start it again" >&3
        kill -TERM $$
    ) &
}

# Make a folder for this user alone. One that somebody else has made, or could have put something
# into, is refused: in /tmp, say, whoever comes first may choose what is in it.
own_folder() {
    local folder=${1%/}
    mkdir -p "$(dirname "$folder")"
    mkdir "$folder" 2>/dev/null || true
    if [ -L "$folder" ] || [ ! -d "$folder" ] || [ ! -O "$folder" ] ||
        [ -n "$(find "$folder" -maxdepth 0 -perm /022)" ]; then
        refuse "$folder is a link, or another user owns it or may write to it: choose another FLWR_HOME"
    fi
    chmod go= "$folder"
}
