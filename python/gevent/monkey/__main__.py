"""`python -m gevent.monkey script`: run a script with the standard library patched."""
from gevent.monkey import main

main()
