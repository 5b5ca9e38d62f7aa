"""Blocking code becomes concurrent: `requests` knows nothing of gevent, yet its downloads overlap.

Usage: 2_monkey_patching.py [URL ...]
"""

# Patch first, before anything else imports the modules that are patched.
from gevent import monkey

monkey.patch_all()

import sys
import time

import gevent
import requests


def fetch(url):
    """Download `url` with a library that only knows blocking sockets."""
    print(f"{time.strftime('%H:%M:%S')} {url} asked")
    response = requests.get(url)
    print(f"{time.strftime('%H:%M:%S')} {url} sent {len(response.content)} bytes")
    return response.content


urls = sys.argv[1:] or [
    "https://www.python.org/",
    "https://www.google.com/",
    "https://www.github.com/",
]

print("One after another:")
start = time.time()
for url in urls:
    fetch(url)
print(f"One after another took {time.time() - start:.2f} s\n")

print("All at once:")
start = time.time()
jobs = [gevent.spawn(fetch, url) for url in urls]
gevent.joinall(jobs, raise_error=True)
print(f"All at once took {time.time() - start:.2f} s")
