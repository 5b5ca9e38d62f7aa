#!/usr/bin/env bash
# HTTP throughput of several servers of http_app.py, in turns, under the same load: the server on processor 0, wrk on
# processor 1.
#
# usage: [CONNECTIONS=50] [ROUNDS=3] [PATHS='/ /big'] [CLOSE=] http.sh SECONDS NAME=COMMAND ...
#
# With CLOSE=yes each request has a connection of its own.
#
# Each COMMAND listens on 127.0.0.1 at the port that replaces {} in it; http_app can be imported. Prints a line for each
# round, server and path, and at the end the median of each server and path.
set -euo pipefail

if (($# < 2)); then
    sed -n '/^# usage/s/^# //p' "$0" >&2
    exit 2
fi
for tool in wrk curl taskset; do
    command -v "$tool" >/dev/null || { echo "http.sh: $tool is missing" >&2; exit 2; }
done

seconds=$1
shift
connections=${CONNECTIONS:-50}
headers=()
if [[ -n ${CLOSE:-} ]]; then headers=(-H 'Connection: close'); fi
port=${PORT:-18080}
here=$(cd "$(dirname "$0")" && pwd)
export PYTHONPATH=$here
results=$(mktemp)
log=$(mktemp)
server=
stop() {
    if [[ -n $server ]]; then
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
        server=
    fi
}
trap 'stop; rm -f "$results" "$log"' EXIT

for round in $(seq "${ROUNDS:-3}"); do
    for entry in "$@"; do
        name=${entry%%=*}
        # Another port each time: the former one may still have connections in TIME_WAIT.
        port=$((port + 1))
        read -r -a command <<<"${entry#*=}"
        taskset -c 0 "${command[@]//\{\}/$port}" >"$log" 2>&1 &
        server=$!
        ready=
        for _ in $(seq 100); do
            if curl -s -o /dev/null "http://127.0.0.1:$port/"; then ready=yes; break; fi
            kill -0 "$server" 2>/dev/null || break
            sleep 0.1
        done
        if [[ -z $ready ]]; then
            echo "http.sh: $name does not answer; it said:" >&2
            tail -n 20 "$log" >&2
            exit 1
        fi
        for path in ${PATHS:-/ /big}; do
            report=$(taskset -c 1 wrk -t1 -c"$connections" -d"${seconds}s" --latency "${headers[@]}" "http://127.0.0.1:$port$path")
            rate=$(sed -n 's/^Requests\/sec: *//p' <<<"$report")
            slowest=$(sed -n 's/^ *99% *//p' <<<"$report")
            errors=$(grep -E 'Non-2xx|Socket errors' <<<"$report" || true)
            printf 'round %s  %-16s %-8s %12s requests/s   99 %% in %s %s\n' \
                "$round" "$name" "$path" "$rate" "$slowest" "$errors"
            echo "$name $path $rate" >>"$results"
        done
        stop
    done
done

echo
sort -k1,1 -k2,2 -k3,3g "$results" | awk '
    function flush_group() {
        if (count) printf "median   %-16s %-8s %12.0f requests/s\n", name, path, rates[int((count + 1) / 2)]
        count = 0
    }
    $1 != name || $2 != path { flush_group(); name = $1; path = $2 }
    { rates[++count] = $3 }
    END { flush_group() }'
