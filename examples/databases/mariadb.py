"""Ten queries at once by SQLAlchemy and PyMySQL. Usage: mariadb.py URL"""

from gevent import monkey

monkey.patch_all()

import sys

from gevent.pool import Pool
from sqlalchemy import create_engine, text

engine = create_engine(sys.argv[1], pool_size=10)


def square(number):
    with engine.connect() as connection:
        return connection.execute(text("select sleep(0.1), :number * :number"), {"number": number}).one()[1]


print(Pool(10).map(square, range(10)))
engine.dispose()
