"""`python -m gevent.monkey script`: run a script with the standard library patched."""
from gevent.monkey import main

if __name__ == "__main__":
    main()
