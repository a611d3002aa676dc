#!/bin/sh
# Monday to Friday: a run on the newest data, beside the one that is served; checked; put into service while requests
# go on; and taken back where the service refuses it.
#
#   diffacet serve runs/current --api-key-file keys                              # runs/current: a link to a run
#   diffacet import today.csv --user customer --item sku --time ts --out data/2026-11-26
#   DIFFACET_KEY=... examples/serving/refresh.sh data/2026-11-26 runs http://127.0.0.1:8000
#
#   30 4 * * 1-5  diffacet  cd /srv/diffacet && ./today.sh                       # cron: a script with the lines above
#
#   diffacet evaluate runs/monday --on valid --json > runs/monday.json           # once: what the first run had
#
# Exit code 0: the new run is served. Otherwise the old one goes on, runs/current leads to it, and the last line says
# why. Killed, and run again on the same day, it goes on where it was. Old runs are yours to remove.
#
#   MODEL=dmi  TRAIN='--set gamma=0.3'  NAME=2026-11-26    the model, more options of 'diffacet train', the run's name
#   METRIC=recall@50  SHARE=0.95  LEAST=0                  what the run must reach on validation, see below
#   DIFFACET_KEY=...                                       the service is asked to reload; without it there is
#   RELOAD='systemctl reload diffacet'                     a command that sends SIGHUP (a service without keys)
#
# Not for a service with --watch: it reloads by itself when the link is turned, and answers 409 while it does.
set -eu
[ $# -eq 3 ] || { echo "usage: $0 DATA RUNS URL" >&2; exit 2; }
data=$1 runs=$2 url=${3%/} metric=${METRIC:-recall@50} name=${NAME:-$(date +%Y-%m-%d)}
end() { echo "$0: $1" >&2; exit 1; }

# 1. Train beside what is served.
diffacet train "${MODEL:-dmi}" --data "$data" --out "$runs/$name" --resume ${TRAIN:-}

# 2. Check: at least LEAST, and at least SHARE of what the served run had. Each is asked about the validation users of
# its own data, so this guards against accidents; whether one model is better is a question for 'diffacet compare'.
value() { sed -n "s/.*\"$metric\": *\([-+.0-9eE]*\).*/\1/p" "$1"; }
diffacet evaluate "$runs/$name" --on valid --json > "$runs/.$name.json"
mv "$runs/.$name.json" "$runs/$name.json"
old=$(readlink "$runs/current" || true)
new=$(value "$runs/$name.json") served=0
[ -n "$new" ] || end "'diffacet evaluate' gives no $metric"
[ ! -f "$runs/${old##*/}.json" ] || served=$(value "$runs/${old##*/}.json")
echo "$metric on validation: $new; the served run had $served"
awk "BEGIN {exit !($new >= ${LEAST:-0} && $new >= ${SHARE:-0.95} * $served)}" || end "not good enough, $old goes on"

# 3. Turn the link: whoever reads it sees the old run or the new one.
turn() {
    ln -sfn "$1" "$runs/.current"
    mv -T "$runs/.current" "$runs/current"
}

# 4. Reload. The service loads the run beside the old one, asks its golden request, and only then exchanges them.
send() { # the key goes through a pipe: what stands in a command line, every user of the machine can read
    { [ -z "${DIFFACET_KEY:-}" ] || printf 'header = "X-API-Key: %s"\n' "$DIFFACET_KEY"; } | curl -sS --config - "$@"
}
outcomes() { send "$url/metrics" | grep '^diffacet_reloads_total' | sort; }
reload() {
    if [ -n "${DIFFACET_KEY:-}" ]; then
        answer=$(send -w ' %{http_code}' -H 'Content-Type: application/json' -d '{}' "$url/v1/admin/reload") || return 1
        echo "$answer"
        [ "${answer##* }" = 200 ]
        return
    fi
    before=$(outcomes) seconds=0
    [ -n "$before" ] || return 1 # no metrics: another service, or one that wants a key
    ${RELOAD:-systemctl reload diffacet} || return 1
    while [ "$(outcomes)" = "$before" ]; do # SIGHUP has no answer; the metrics tell when it is done
        [ $((seconds += 1)) -le 600 ] || return 1
        sleep 1
    done
    send "$url/metrics" | grep -q '^diffacet_last_reload_ok 1'
}
turn "$name"
if ! reload; then
    if [ -n "$old" ]; then turn "$old"; else rm "$runs/current"; fi
    end "the service does not take $name, its log says why; runs/current leads to ${old:-nothing} again"
fi
echo "$runs/$name is served: $(send "$url/readyz")"
