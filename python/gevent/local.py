"""Greenlet-local data: an object whose attributes each greenlet has for itself."""
from gevent._greenrust import local

__all__ = ["local"]
