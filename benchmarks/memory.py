"""Memory of many sleeping greenlets, and the time to start and to kill them all.

usage: python memory.py [--frames N] [COUNT]        python memory.py 1000000

Prints one JSON object: resident memory and page tables in KiB per greenlet; the time of starting (until the last one
sleeps) and of killing (until all have ended) in µs per greenlet, and in seconds altogether.

--frames has each greenlet sleep under so many more calls of a Python function.
"""

import argparse
import json
import time

import gevent


def status(field):
    """Return a field of /proc/self/status, in KiB."""
    with open("/proc/self/status") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name == field:
                return int(value.split()[0])
    raise LookupError(field)


def main():
    """Start, measure, kill, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=0, help="Python calls under the one that sleeps (0)")
    parser.add_argument("count", type=int, nargs="?", default=100_000, help="how many greenlets (100000)")
    args = parser.parse_args()
    asleep = 0

    def body(frames):
        nonlocal asleep
        if frames:
            body(frames - 1)
            return
        asleep += 1
        gevent.sleep(100_000)

    gevent.sleep(0)
    resident, tables = status("VmRSS"), status("VmPTE")
    began = time.perf_counter()
    greenlets = [gevent.spawn(body, args.frames) for _ in range(args.count)]
    while asleep < args.count:
        gevent.sleep(0.001)
    start_seconds = time.perf_counter() - began
    resident, tables = status("VmRSS") - resident, status("VmPTE") - tables
    began = time.perf_counter()
    gevent.killall(greenlets)
    kill_seconds = time.perf_counter() - began
    left = sum(not greenlet.dead for greenlet in greenlets)
    if left:
        raise SystemExit(f"{left} greenlets are alive after killall")
    print(
        json.dumps(
            {
                "greenlets": args.count,
                "frames": args.frames,
                "resident_kib": round(resident / args.count, 2),
                "page_tables_kib": round(tables / args.count, 3),
                "start_us": round(start_seconds / args.count * 1e6, 2),
                "kill_us": round(kill_seconds / args.count * 1e6, 2),
                "start_seconds": round(start_seconds, 2),
                "kill_seconds": round(kill_seconds, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
