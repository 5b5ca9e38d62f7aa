"""Serves http_app by bjoern.  usage: python bjoern_app.py PORT"""
import sys

import bjoern
from http_app import application

bjoern.run(application, '127.0.0.1', int(sys.argv[1]))
