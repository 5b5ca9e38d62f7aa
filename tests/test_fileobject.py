"""File objects on pipes and files."""
import errno
import os
import re

import gevent
import pytest
from gevent.fileobject import FileObjectBlock, FileObjectPosix, FileObjectThread


@pytest.fixture
def pipe():
    return os.pipe()


@pytest.mark.parametrize("kind", [FileObjectPosix, FileObjectThread])
def test_read_waits_for_what_is_written(pipe, kind):
    read, write = pipe
    with kind(read, "rb") as reader, kind(write, "wb") as writer:
        line = gevent.spawn(reader.readline)
        gevent.sleep(0)
        writer.write(b"line\n")
        writer.flush()
        assert line.get(timeout=10) == b"line\n"


def test_write_waits_for_a_full_pipe(pipe):
    read, write = pipe
    data = b"x" * 1_000_000
    reader, writer = FileObjectPosix(read, "rb"), FileObjectPosix(write, "wb")

    def send():
        with writer:
            writer.write(data)

    sender = gevent.spawn(send)
    assert reader.read() == data
    sender.get()
    reader.close()


def test_text_and_lines(pipe):
    read, write = pipe
    with FileObjectPosix(write, "w", encoding="utf-8") as writer:
        writer.write("ein\nzwölf\n")
    with FileObjectPosix(read, "r", encoding="utf-8") as reader:
        assert list(reader) == ["ein\n", "zwölf\n"]


def test_close_closes_the_descriptor_unless_told_not_to(pipe):
    read, write = pipe
    FileObjectPosix(read, "rb", closefd=False).close()
    os.fstat(read)
    reader = FileObjectPosix(read, "rb")
    reader.close()
    assert reader.closed
    gevent.sleep(0.01)
    with pytest.raises(OSError):
        os.fstat(read)
    os.close(write)


@pytest.mark.parametrize("kind", [FileObjectPosix, FileObjectThread])
def test_file_on_disk(tmp_path, kind):
    path = tmp_path / "file"
    with kind(str(path), "wb") as writer:
        writer.write(b"0123456789")
    with kind(str(path), "rb") as reader:
        reader.seek(3)
        assert reader.tell() == 3
        assert reader.read(2) == b"34"


@pytest.mark.parametrize("mode", ["q", "rw", "rr", "rtb"])
def test_wrong_mode_is_refused(pipe, mode):
    with pytest.raises(ValueError):
        FileObjectPosix(pipe[0], mode)
    for descriptor in pipe:
        os.close(descriptor)


def test_unbuffered_write_is_seen_at_once(pipe):
    read, write = pipe
    with FileObjectPosix(write, "wb", 0) as writer:
        writer.write(b"now")
        assert os.read(read, 10) == b"now"
    os.close(read)


KINDS = [FileObjectPosix, FileObjectThread, FileObjectBlock]


@pytest.mark.parametrize("kind", KINDS)
def test_closed_file_object_refuses_everything_but_its_name(pipe, kind):
    reader = kind(pipe[0], "rb")
    name = reader.name
    reader.close()
    reader.close()
    assert reader.closed and reader.name == name == pipe[0]
    assert "closed" in repr(reader)
    for attribute in ("read", "fileno", "readable", "mode"):
        with pytest.raises(OSError, match="FileObject was closed") as caught:
            getattr(reader, attribute)
        assert caught.value.errno == errno.EBADF
    os.close(pipe[1])


@pytest.mark.parametrize("kind", KINDS)
def test_mode_is_told_as_it_was_given(pipe, kind):
    with kind(pipe[0], "rb") as reader, kind(pipe[1], "wb") as writer:
        assert (reader.mode, writer.mode) == ("rb", "wb")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("mode", "options", "message"),
    [
        ("rw", {}, "read/write/append mode at once"),
        ("+", {}, "exactly one of"),
        ("wU", {}, "mode U cannot be combined"),
        ("bt", {}, "text and binary mode at once"),
        ("rr", {}, "invalid mode: 'rr'"),
        ("rb", {"newline": "\n"}, "take a newline argument"),
        ("rb", {"encoding": "ascii"}, "take an encoding argument"),
    ],
)
def test_impossible_mode_is_an_error_that_says_why(kind, mode, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        kind(0, mode, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_mode_of_universal_newlines_is_still_taken(tmp_path, kind):
    path = tmp_path / "lines"
    path.write_bytes(b"one\r\ntwo\r")
    with kind(str(path), "rU") as reader:
        assert reader.read() == "one\ntwo\n"


def test_object_that_has_only_a_descriptor_is_read_and_closed(pipe):
    class Nameless:
        def fileno(self):
            return pipe[0]

        def close(self):
            os.close(pipe[0])

        def flush(self):
            pass

    owner = Nameless()
    os.write(pipe[1], b"text")
    os.close(pipe[1])
    reader = FileObjectPosix(owner, "rb")
    assert reader.read() == b"text"
    with pytest.raises(AttributeError):
        reader.name  # noqa: B018
    reader.close()
    with pytest.raises(AttributeError):
        reader.name  # noqa: B018
