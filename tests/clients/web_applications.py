"""The same application by Flask and by Django, on gevent.pywsgi: `web_applications.py flask|django PORT`.

    POST /upload    the number of bytes and the SHA-256 of the file `data`
    POST /raw       the number of bytes of the body, read as it is
    GET /stream     MIB chunks of 1 MiB
    GET /state      what became of the others: how many are in `/raw` and `/stream`, have ended, and are made of chunks
"""
import sys

from gevent import monkey

monkey.patch_all()

import hashlib
import json
from collections import Counter

from gevent.pywsgi import WSGIServer

MIB = 64
state = Counter()


def digest(chunks):
    """Return the JSON text about a file that comes in chunks."""
    sha, length = hashlib.sha256(), 0
    for chunk in chunks:
        sha.update(chunk)
        length += len(chunk)
    return json.dumps({"length": length, "sha256": sha.hexdigest()})


def read_raw(stream):
    """Read a body to its end, and note how that went."""
    state["raw"] += 1
    length = 0
    try:
        while chunk := stream.read(65536):
            length += len(chunk)
    except Exception as error:
        state["raw failed"] += 1
        state[type(error).__name__] += 1
        raise
    state["raw ended"] += 1
    return json.dumps({"length": length})


def chunks():
    state["stream"] += 1
    try:
        for number in range(MIB):
            state["chunks"] += 1
            yield bytes([number]) * (1 << 20)
    finally:
        state["stream ended"] += 1


def make_flask():
    from flask import Flask, Response, request

    application = Flask(__name__)

    @application.post("/upload")
    def upload():
        file = request.files["data"]
        return digest(iter(lambda: file.stream.read(65536), b""))

    @application.post("/raw")
    def raw():
        return read_raw(request.stream)

    @application.get("/stream")
    def stream():
        return Response(chunks(), mimetype="application/octet-stream")

    @application.get("/state")
    def get_state():
        return json.dumps(state)

    return application


def make_django():
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpResponse, StreamingHttpResponse
    from django.urls import path

    settings.configure(ALLOWED_HOSTS=["*"], SECRET_KEY="secret", ROOT_URLCONF=__name__, LOGGING_CONFIG=None)
    global urlpatterns
    urlpatterns = [
        path("upload", lambda request: HttpResponse(digest(request.FILES["data"].chunks()))),
        path("raw", lambda request: HttpResponse(read_raw(request))),
        path("stream", lambda request: StreamingHttpResponse(chunks())),
        path("state", lambda request: HttpResponse(json.dumps(state))),
    ]
    return get_wsgi_application()


application = {"flask": make_flask, "django": make_django}[sys.argv[1]]()
WSGIServer(("127.0.0.1", int(sys.argv[2])), application, log=None).serve_forever()
