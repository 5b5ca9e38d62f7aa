"""File objects on pipes and files."""
import os

import gevent
import pytest
from gevent.fileobject import FileObjectPosix, FileObjectThread


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
