"""Ten queries at once over a pool of connections. Usage: postgresql.py DSN"""

from gevent import monkey

monkey.patch_all()

import sys

from gevent.pool import Pool
from psycopg_pool import ConnectionPool


def square(number):
    with pool.connection() as connection:
        return connection.execute("select pg_sleep(0.1), %s * %s", (number, number)).fetchone()[1]


with ConnectionPool(sys.argv[1], min_size=1, max_size=10) as pool:
    print(Pool(10).map(square, range(10)))
