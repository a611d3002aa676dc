#!/bin/sh
# A peer's script, in an environment of its own.
#
#     benchmarks/peers/peer.sh recbole_diffrec --out build/peers/recbole.json --split build/peers/split
#     benchmarks/peers/peer.sh rectools_sasrec --out build/peers/rectools.json --split build/peers/leave-last
#
# PEER_MODEL runs PEER_MODEL.py, which gets all further arguments (--help lists them); rectools_sasrec reads the split
# that ours_sasrec.py writes. The environment is made of PEER_requirements.txt once, in $PEER_ENV (build/peers/PEER),
# by $PYTHON (python3), with pip.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
script=$here/${1:-}.py
requirements=$here/${1:+${1%%_*}}_requirements.txt
if [ ! -f "$script" ] || [ ! -f "$requirements" ]; then
    echo "usage: peer.sh recbole_diffrec|rectools_sasrec ARGUMENTS; got '${1:-}'" >&2
    exit 2
fi
place=${PEER_ENV:-$root/build/peers/${1%%_*}}
shift
wanted=$(cat "$requirements" "$root/constraints.txt")
if [ "$wanted" != "$(cat "$place/.installed" 2>/dev/null)" ]; then
    "${PYTHON:-python3}" -m venv --clear "$place"
    "$place/bin/python" -m pip install --quiet --requirement "$requirements" torch --constraint "$root/constraints.txt"
    printf '%s\n' "$wanted" > "$place/.installed"
fi
exec "$place/bin/python" "$script" "$@"
