#!/bin/sh
# Everything that a diffacet service can be asked, as curl lines: each is printed, then sent, then its answer shown.
#
#   examples/serving/curl.sh http://127.0.0.1:8000               # with the first three items of the catalogue
#   examples/serving/curl.sh http://127.0.0.1:8000 '[12, 7, 99]' # with a history: JSON, item ids, oldest first
#   DIFFACET_KEY=... examples/serving/curl.sh https://shop.example/recommend
#
# Ends with 1 if an answer has another status than it should. SHOWN is the number of characters of an answer shown.
set -eu
[ $# -ge 1 ] || { echo "usage: $0 URL [HISTORY]" >&2; exit 2; }
url=${1%/} shown=${SHOWN:-300} json='Content-Type: application/json' failed=0
key=${DIFFACET_KEY:+' -H "X-API-Key: $DIFFACET_KEY"'}

# The key goes through a pipe: what stands in a command line, every user of the machine can read.
send() {
    { [ -z "${DIFFACET_KEY:-}" ] || printf 'header = "X-API-Key: %s"\n' "$DIFFACET_KEY"; } | curl -sS --config - "$@"
}

# ask WHAT STATUS PATH [BODY]: statuses that are right, with | between
ask() {
    printf '\n# %s\n' "$1"
    if [ $# -gt 3 ]; then
        printf "curl '%s'%s -H '%s' -d '%s'\n" "$url$3" "$key" "$json" "$4"
        answer=$(send -w '\n%{http_code}' -H "$json" -d "$4" "$url$3")
    else
        printf "curl '%s'%s\n" "$url$3" "$key"
        answer=$(send -w '\n%{http_code}' "$url$3")
    fi
    status=${answer##*
}
    printf '%s  %s\n' "$status" "$(printf '%s' "${answer%?"$status"}" | cut -c "1-$shown" | head -n 12)"
    case "|$2|" in *"|$status|"*) ;; *) echo "expected $2" >&2; failed=1 ;; esac
}

ask "Does it answer, and which version?" 200 /readyz
ask "What is it, and what can it be asked ('can')?" 200 /v1/model
ask "Which items are there? By the beginning of an id or by a title." 200 '/v1/items?q=a&limit=3'

first() { send "$url/v1/items?limit=3" | tr '{' '\n' | sed -n 's/^"item_id":\(.*\),"title":.*/\1/p'; }
history=${2:-[$(first | paste -s -d , -)]}
one=$(first | head -n 1)
[ -n "$one" ] || { echo "there are no items to ask with; the answers above say why" >&2; exit 1; }

ask "Candidates for a history." 200 /v1/recommend "{\"history\": $history, \"k\": 5}"
ask "For several histories at once; a bad one has an error of its own." 200 /v1/recommend \
    "{\"histories\": [$history, [\"no such item\"]], \"k\": 2}"
ask "Seen items may come back, others must not, and the interests are told, too." '200|422' /v1/recommend \
    "{\"history\": $history, \"k\": 5, \"exclude_seen\": false, \"exclude\": [$one], \"explain\": true}"
ask "Fewer refinement steps; 422 from a model that does not refine." '200|422' /v1/recommend \
    "{\"history\": $history, \"refine_steps\": 1}"
ask "The interests: coarse, refined, what they look at." '200|422' /v1/interests "{\"history\": $history}"
ask "Items like one." '200|422' /v1/similar "{\"item_id\": $one, \"k\": 3}"
ask "An error has one shape: a code for programs, a message for people, the field." 422 /v1/recommend \
    "{\"history\": $history, \"k\": 0}"
exit $failed
