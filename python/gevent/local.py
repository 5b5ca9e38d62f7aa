"""Greenlet-local data: an object whose attributes each greenlet has for itself."""
from gevent._greenrust import all_local_dicts_for_greenlet, local

__all__ = ["local", "all_local_dicts_for_greenlet"]
