"""Database drivers in a patched program: a query that waits for another greenlet's query gets its answer.

Several greenlets wait in the server for what one greenlet holds, which lets go only when the server says that all of
them wait. A driver that blocks the thread would stop at the first.
"""
import textwrap
from pathlib import Path

import pytest
from implementation import run_script

# Waits until `count()` is 5, then calls `release`; each of five greenlets returns what `wait` returns.
FIVE_WAIT = """
def five_wait(wait, count, release):
    jobs = [gevent.spawn(wait, number) for number in range(5)]
    with gevent.Timeout(30):
        while count() < 5:
            # MariaDB looks anew only when it was not asked for 0.1 s.
            gevent.sleep(0.12)
    assert not any(job.ready() for job in jobs), jobs
    release()
    gevent.joinall(jobs, raise_error=True)
    return [job.value for job in jobs]
"""
EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples/databases"
HEAD = "from gevent import monkey; monkey.patch_all()\nimport gevent, gevent.pool\n" + FIVE_WAIT


def run(source, *arguments):
    return run_script(HEAD + textwrap.dedent(source), *arguments)


def test_redis(redis):
    run("""
        import redis
        client = redis.Redis(port=int(sys.argv[1]), decode_responses=True, socket_timeout=30)
        client.flushdb()
        def wait(number):
            return client.blpop([f"list-{number}"], 30)
        def count():
            return client.info("clients")["blocked_clients"]
        def release():
            for number in range(5):
                client.rpush(f"list-{number}", number)
        assert five_wait(wait, count, release) == [(f"list-{number}", str(number)) for number in range(5)]

        listening = client.pubsub()
        listening.subscribe("news")
        assert listening.get_message(timeout=30)["type"] == "subscribe"
        hearing = gevent.spawn(listening.get_message, timeout=30)
        gevent.sleep(0)
        client.publish("news", "word")
        assert hearing.get()["data"] == "word"
        listening.close()
    """, redis["port"])


POSTGRESQL = """
        connections = [connect() for _ in range(7)]
        def ask(number, query):
            with connections[number].cursor() as cursor:
                cursor.execute(query)
                found = cursor.fetchone()
            connections[number].commit()
            return found[0]
        def wait(number):
            with connections[number].cursor() as cursor:
                cursor.execute("set statement_timeout = '30s'")
                cursor.execute("select pg_advisory_lock_shared(7)")
                cursor.execute("select %s * 2", (number,))
                found = cursor.fetchone()[0]
            connections[number].commit()
            return found
        def count():
            return ask(5, "select count(*) from pg_locks where locktype = 'advisory' and not granted")
        ask(6, "select pg_advisory_lock(7)")
        assert five_wait(wait, count, lambda: ask(6, "select pg_advisory_unlock(7)")) == [0, 2, 4, 6, 8]
        for connection in connections:
            connection.close()
"""


def test_psycopg2_by_psycogreen(postgresql):
    run(f"""
        from psycogreen.gevent import patch_psycopg
        import psycopg2
        patch_psycopg()
        def connect():
            return psycopg2.connect(sys.argv[1])
        {POSTGRESQL}
    """, postgresql["dsn"])


def test_psycopg3(postgresql):
    run(f"""
        import psycopg
        def connect():
            return psycopg.connect(sys.argv[1])
        {POSTGRESQL}
        from psycopg_pool import ConnectionPool
        with ConnectionPool(sys.argv[1], min_size=1, max_size=2, open=True, timeout=30) as pool:
            def use(number):
                with pool.connection() as connection:
                    return connection.execute("select %s + 1", (number,)).fetchone()[0]
            assert gevent.pool.Pool(10).map(use, range(20)) == list(range(1, 21))
    """, postgresql["dsn"])


MARIADB_WAIT = """
        def ask(number, query):
            with connections[number].cursor() as cursor:
                cursor.execute(query)
                return cursor.fetchone()[0]
        def wait(number):
            assert ask(number, "select get_lock('gate', 30)") == 1
            assert ask(number, "select release_lock('gate')") == 1
            return ask(number, f"select {number} * 2")
        def count():
            return ask(5, "select count(*) from information_schema.processlist where state = 'User lock'")
        assert ask(6, "select get_lock('gate', 30)") == 1
        assert five_wait(wait, count, lambda: ask(6, "select release_lock('gate')")) == [0, 2, 4, 6, 8]
        for connection in connections:
            connection.close()
"""


def test_pymysql(mariadb):
    run(f"""
        import pymysql
        port, user, password, database = sys.argv[1:]
        connections = [
            pymysql.connect(host="127.0.0.1", port=int(port), user=user, password=password, database=database,
                            read_timeout=40)
            for _ in range(7)
        ]
        {MARIADB_WAIT}
    """, *mariadb.values())


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg", "pymysql"])
def test_sqlalchemy(postgresql, mariadb, driver):
    if driver == "pymysql":
        address = "mysql+pymysql://{user}:{password}@127.0.0.1:{port}/{database}".format(**mariadb)
    else:
        address = f"postgresql+{driver}://tester@127.0.0.1:{postgresql['port']}/postgres"
    run("""
        if "psycopg2" in sys.argv[1]:
            from psycogreen.gevent import patch_psycopg
            patch_psycopg()
        import sqlalchemy
        from sqlalchemy import orm
        engine = sqlalchemy.create_engine(sys.argv[1], pool_size=8, max_overflow=0, pool_timeout=30)
        class Base(orm.DeclarativeBase):
            pass
        class Account(Base):
            __tablename__ = "accounts"
            id = orm.mapped_column(sqlalchemy.Integer, primary_key=True)
            total = orm.mapped_column(sqlalchemy.Integer, nullable=False)
        Base.metadata.drop_all(engine)
        Base.metadata.create_all(engine)
        waiting_query = sqlalchemy.text(
            "select count(*) from information_schema.innodb_trx where trx_state = 'LOCK WAIT'"
            if "mysql" in sys.argv[1] else
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        )
        with orm.Session(engine) as session:
            session.add(Account(id=1, total=0))
            session.commit()
        # All add to one row, which this transaction holds.
        holder = orm.Session(engine)
        holder.get(Account, 1, with_for_update=True)
        def wait(number):
            with orm.Session(engine) as session:
                account = session.get(Account, 1, with_for_update=True)
                account.total += number
                session.commit()
                return number
        def count():
            with engine.connect() as connection:
                return connection.execute(waiting_query).scalar()
        assert five_wait(wait, count, holder.commit) == list(range(5))
        holder.close()
        with orm.Session(engine) as session:
            assert session.get(Account, 1).total == sum(range(5))

        # More greenlets than connections: those in excess wait for the pool.
        def query(number):
            with engine.connect() as connection:
                return connection.execute(sqlalchemy.text("select :number"), {"number": number}).scalar()
        assert [int(found) for found in gevent.pool.Pool(30).map(query, range(60))] == list(range(60))
        engine.dispose()
    """, address)


def test_examples_print_what_they_promise(redis, postgresql, mariadb):
    squares = str([number * number for number in range(10)])
    address = "mysql+pymysql://{user}:{password}@127.0.0.1:{port}/{database}".format(**mariadb)
    for name, argument, printed in [
        ("postgresql.py", postgresql["dsn"], squares),
        ("mariadb.py", address, squares),
        ("redis_queue.py", redis["port"], "['one', 'two', 'three']"),
    ]:
        completed = run_script((EXAMPLES / name).read_text(encoding="utf-8"), argument)
        assert completed.stdout.strip() == printed
