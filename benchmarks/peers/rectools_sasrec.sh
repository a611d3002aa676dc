#!/bin/sh
# RecTools' SASRec on a split that ours_sasrec.py has written, in an environment of its own.
#
#     benchmarks/peers/rectools_sasrec.sh --out build/peers/rectools.json --split build/peers/leave-last
#
# All arguments go to rectools_sasrec.py (--help lists them). The environment is made once, in $PEER_ENV
# (build/peers/rectools), by $PYTHON (python3), with pip.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
place=${PEER_ENV:-$root/build/peers/rectools}
wanted=$(cat "$here/rectools_requirements.txt" "$root/constraints.txt")
if [ "$wanted" != "$(cat "$place/.installed" 2>/dev/null)" ]; then
    "${PYTHON:-python3}" -m venv --clear "$place"
    "$place/bin/python" -m pip install --quiet --requirement "$here/rectools_requirements.txt" \
        --constraint "$root/constraints.txt"
    printf '%s\n' "$wanted" > "$place/.installed"
fi
exec "$place/bin/python" "$here/rectools_sasrec.py" "$@"
