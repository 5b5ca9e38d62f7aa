#!/usr/bin/env python3
"""Run the Autobahn test suite's cases against gevent.websocket, and say which failed.

    run_autobahn.py WSTEST [CASE ...]

WSTEST is the suite's command; CASE such as '1.*' or '9.1.6', all by default, which takes about half an hour. The suite
needs Python 2.7:

    virtualenv --python python2.7 autobahn && autobahn/bin/pip install autobahntestsuite
    python scripts/run_autobahn.py autobahn/bin/wstest
"""
import collections
import json
import os
import subprocess
import sys
import tempfile

SERVER = """
from gevent.pywsgi import WSGIServer
from gevent.websocket import Options, application

def echo(websocket):
    for message in websocket:
        websocket.send(message)

server = WSGIServer(("127.0.0.1", 0), application(echo), log=None)
# The suite sends messages of 16 MiB, and asks for windows of every size.
server.websocket_options = Options(max_message_size=64 << 20, window_bits=15)
server.start()
print(server.server_port, flush=True)
server.serve_forever()
"""
# The suite's words for what is allowed.
GOOD = {"OK", "INFORMATIONAL", "NON-STRICT"}


def main(wstest, *cases):
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
        try:
            specification = os.path.join(folder, "specification.json")
            with open(specification, "w", encoding="utf-8") as file:
                json.dump({
                    "outdir": folder,
                    "servers": [{"agent": "greenrust", "url": f"ws://127.0.0.1:{int(server.stdout.readline())}"}],
                    "cases": cases or ["*"], "exclude-cases": [], "exclude-agent-cases": {},
                }, file)
            # It says which case it runs.
            subprocess.run([wstest, "-m", "fuzzingclient", "-s", specification], check=True, stdin=subprocess.DEVNULL)
        finally:
            server.kill()
            server.communicate()
        with open(os.path.join(folder, "index.json"), encoding="utf-8") as file:
            results = json.load(file)["greenrust"]
    counts = collections.Counter()
    failed = []
    for case, result in results.items():
        counts[result["behavior"]] += 1
        if result["behavior"] not in GOOD or result["behaviorClose"] not in GOOD:
            failed.append(f"{case}: {result['behavior']}, closing: {result['behaviorClose']}")
    print(f"{len(results)} cases: {', '.join(f'{count} {name}' for name, count in counts.most_common())}")
    print("\n".join(failed))
    return bool(failed)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
