"""Greenlets that wait for words, and one that sends them. Usage: redis_queue.py PORT"""

from gevent import monkey

monkey.patch_all()

import sys

import gevent
import redis

client = redis.Redis(port=int(sys.argv[1]), decode_responses=True)


def wait(number):
    _, word = client.blpop([f"words-{number}"])
    return word


waiting = [gevent.spawn(wait, number) for number in range(3)]
for number, word in enumerate(["one", "two", "three"]):
    client.rpush(f"words-{number}", word)
print([greenlet.get() for greenlet in waiting])
