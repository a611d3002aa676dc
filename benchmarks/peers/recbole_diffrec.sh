#!/bin/sh
# RecBole's DiffRec on MovieLens 100K, in an environment of its own.
#
#     benchmarks/peers/recbole_diffrec.sh --out build/peers/recbole.json --split build/peers/split
#
# All arguments go to recbole_diffrec.py (--help lists them). The environment is made once, in $PEER_ENV
# (build/peers/recbole), by $PYTHON (python3), with pip.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
place=${PEER_ENV:-$root/build/peers/recbole}
wanted=$(cat "$here/recbole_requirements.txt" "$root/constraints.txt")
if [ "$wanted" != "$(cat "$place/.installed" 2>/dev/null)" ]; then
    "${PYTHON:-python3}" -m venv --clear "$place"
    "$place/bin/python" -m pip install --quiet --requirement "$here/recbole_requirements.txt" torch \
        --constraint "$root/constraints.txt"
    printf '%s\n' "$wanted" > "$place/.installed"
fi
exec "$place/bin/python" "$here/recbole_diffrec.py" "$@"
