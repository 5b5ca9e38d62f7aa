"""Child processes that are waited for by greenlets."""
import os
import signal
import sys
import threading

import gevent
import pytest
from gevent import subprocess
from gevent.subprocess import PIPE, Popen

ECHO = [sys.executable, "-c", "import sys; sys.stdout.write(sys.stdin.read().upper())"]


def test_wait_lets_others_run():
    process = subprocess.Popen(["sleep", "0.05"])
    ran = gevent.spawn(lambda: process.returncode is None)
    assert process.wait() == 0
    assert ran.value is True


def test_communicate_sends_and_receives_more_than_a_pipe_holds():
    data = b"abc" * 100_000
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.communicate(data) == (data, None)
    assert process.returncode == 0


def test_text_is_decoded():
    assert subprocess.run(ECHO, input="grün\n", stdout=subprocess.PIPE, encoding="utf-8").stdout == "GRÜN\n"


def test_lines_come_one_by_one():
    script = "import sys\nfor line in sys.stdin:\n    print(line.strip()[::-1], flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        for word in ("one", "two"):
            process.stdin.write(word + "\n")
            process.stdin.flush()
            assert process.stdout.readline() == word[::-1] + "\n"
        process.stdin.close()
        assert process.wait() == 0


def test_timeout_of_wait_leaves_the_process_running():
    process = subprocess.Popen(["sleep", "30"])
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.01)
    assert process.poll() is None
    process.kill()
    assert process.wait() == -signal.SIGKILL


def test_timeout_of_run_keeps_the_output_so_far():
    # Written before the program is started, however long a busy machine takes for that.
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        subprocess.run(["sleep", "30"], stdout=subprocess.PIPE, preexec_fn=lambda: os.write(1, b"part\n"), timeout=0.5)
    assert caught.value.output == b"part\n"


def test_failure_is_an_error_when_checked():
    with pytest.raises(subprocess.CalledProcessError) as caught:
        subprocess.check_output(["sh", "-c", "echo out; exit 3"])
    assert (caught.value.returncode, caught.value.output) == (3, b"out\n")


def test_missing_program_is_an_error():
    with pytest.raises(FileNotFoundError):
        subprocess.Popen(["/no/such/program"])


def test_process_can_be_waited_for_with_others():
    process = subprocess.Popen(["true"])
    assert process in gevent.wait([process], timeout=10)


def test_signal_ends_the_process():
    process = subprocess.Popen(["sleep", "30"])
    gevent.spawn(process.terminate)
    assert process.wait() == -signal.SIGTERM
    process.terminate()     # it has ended: nothing happens


def test_output_of_a_shell_command():
    assert subprocess.getstatusoutput("echo text; exit 2") == (2, "text")


def test_leaving_the_block_ends_readers_that_communicate_left_behind():
    with Popen(["sleep", "60"], stdout=PIPE, stderr=PIPE) as process:
        communicating = gevent.spawn(process.communicate)
        gevent.sleep(0.01)
        communicating.kill()
        process.kill()
    assert process.stdout.closed and process.stderr.closed
    assert process.returncode == -signal.SIGKILL


def test_leaving_the_block_closes_a_pipe_that_another_greenlet_reads():
    process = Popen(["sleep", "60"], stdout=PIPE)
    reader = gevent.spawn(process.stdout.read)
    gevent.sleep(0.01)
    process.kill()
    process.__exit__(None, None, None)
    reader.kill()
    assert process.stdout.closed
    assert process.returncode == -signal.SIGKILL


def test_input_without_a_pipe_for_it_is_ignored():
    process = Popen(["echo", "text"], stdout=PIPE)
    assert process.communicate(b"nobody reads this") == (b"text\n", None)


def test_bufsize_is_the_size_of_the_buffer():
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.close()"], stdin=subprocess.PIPE,
                          bufsize=1 << 20) as process:
        process.wait()
        # It stays in the buffer, so the broken pipe is noticed when it is flushed.
        process.stdin.write(b"x" * 500_000)
        with pytest.raises(BrokenPipeError):
            process.stdin.flush()
        with pytest.raises(BrokenPipeError):
            process.stdin.close()


@pytest.mark.ours_only("gevent gives the second program a pipe that does not block, and its reading fails")
def test_output_of_one_program_is_the_input_of_another():
    # The reader starts reading while there is nothing yet.
    reader = [sys.executable, "-c", "import os; print('ready', flush=True); print(os.read(0, 100))"]
    with subprocess.Popen(ECHO, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        with subprocess.Popen(reader, stdin=first.stdout, stdout=subprocess.PIPE) as second:
            assert second.stdout.readline() == b"ready\n"
            gevent.sleep(0.05)
            first.stdin.write(b"text")
            first.stdin.close()
            assert second.stdout.read() == b"b'TEXT'\n"


@pytest.mark.ours_only("the real one refuses with TypeError outside the main thread")
def test_process_can_be_waited_for_in_any_thread():
    statuses = []
    thread = threading.Thread(target=lambda: statuses.append(subprocess.call(["sh", "-c", "exit 7"])))
    thread.start()
    gevent.get_hub().threadpool.apply(thread.join)
    assert statuses == [7]


def test_output_cannot_be_that_of_itself():
    with pytest.raises(ValueError, match="STDOUT can only be used for stderr"):
        subprocess.Popen(["true"], stdout=subprocess.STDOUT)


def test_pipe_cloexec_gives_a_pipe_that_children_do_not_inherit():
    with subprocess.Popen(["true"]) as process:
        ends = process.pipe_cloexec()
    try:
        assert not any(os.get_inheritable(end) for end in ends)
        os.write(ends[1], b"through")
        assert os.read(ends[0], 10) == b"through"
    finally:
        for end in ends:
            os.close(end)
