"""Run micro.py under two interpreters in turns (A B A B ...) and print the ratios of the medians.

usage: python pair.py [--rounds N] [--cpu N] OURS/bin/python GEVENT/bin/python [NAME ...]

A ratio above 1 means that the first interpreter's implementation is faster. All runs share one processor. The exit
status is 1 if a benchmark failed under either interpreter.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
LIMIT_SECONDS = 300


def names_of_all(python):
    """Return the names of the benchmarks, in the order of micro.py, as the interpreter *python* lists them."""
    listing = subprocess.run(
        [python, "-c", "import micro; print(*micro.BENCHMARKS)"],
        cwd=HERE, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return listing.stdout.split()


def measure(python, name):
    """Return (operations per second, None), or (None, why the benchmark failed)."""
    try:
        done = subprocess.run(
            [python, os.path.join(HERE, "micro.py"), name], capture_output=True, text=True, timeout=LIMIT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return None, f"not done after {LIMIT_SECONDS} s"
    if done.returncode:
        return None, (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return json.loads(done.stdout.splitlines()[-1])[name], None


def main():
    """Measure, print a line for each benchmark, then the geometric mean of the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often each of the two runs (5)")
    parser.add_argument("--cpu", type=int, help="the processor to run on (the first that is allowed)")
    parser.add_argument("ours", help="an interpreter with greenrust")
    parser.add_argument("theirs", help="an interpreter with the real gevent")
    parser.add_argument("names", nargs="*", help="the benchmarks to run (all)")
    args = parser.parse_args()
    # The benchmarks inherit it.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0)) if args.cpu is None else args.cpu})

    print(f"{'benchmark':24}{'ours/s':>14}{'theirs/s':>14}{'ratio':>8}")
    ratios, has_failed = {}, False
    for name in args.names or names_of_all(args.theirs):
        ours, theirs, problems = [], [], []
        for _ in range(args.rounds):
            for python, rates in ((args.ours, ours), (args.theirs, theirs)):
                rate, problem = measure(python, name)
                if problem is None:
                    rates.append(rate)
                else:
                    problems.append(f"{python}: {problem}")
        if problems:
            has_failed = True
            print(f"{name:24}{'failed':>14}  {problems[0]}", flush=True)
            continue
        our_rate, their_rate = statistics.median(ours), statistics.median(theirs)
        ratios[name] = our_rate / their_rate
        print(f"{name:24}{our_rate:14,.0f}{their_rate:14,.0f}{ratios[name]:8.2f}", flush=True)
    if ratios:
        print(f"{'geometric mean':24}{'':28}{statistics.geometric_mean(ratios.values()):8.2f}")
    sys.exit(has_failed)


if __name__ == "__main__":
    main()
