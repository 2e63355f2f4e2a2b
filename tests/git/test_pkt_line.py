"""Packets on real pipes: whatever the sizes of packets, reads and writes."""

import os
import threading

import numpy as np
import pytest

from gitmerge_eval.errors import GitError, UsageError
from gitmerge_eval.git.pkt_line import PACKET_BYTES, PacketReader, PacketWriter


def packet(data):
    return b"%04x" % (len(data) + 4) + data


@pytest.fixture
def pipe():
    """[read end, write end]; who closes an end takes it out, and nobody closes a number twice."""
    ends = list(os.pipe())
    yield ends
    for thread in threading.enumerate():
        if thread.name == "feed":
            thread.join()
    for end in ends:
        os.close(end)


def feed(pipe, data, step=None):
    """Write from a thread, ``step`` bytes at a time, and close."""
    end = pipe.pop()

    def write():
        view = memoryview(data)
        while len(view):
            view = view[os.write(end, view[: step or len(view)]) :]
        os.close(end)

    thread = threading.Thread(target=write, name="feed")
    thread.start()
    return thread


def content(sizes, seed=0):
    random = np.random.default_rng(seed)
    return [random.bytes(size) for size in sizes]


@pytest.mark.parametrize("step", [None, 1, 3, 1000, 65_521])
@pytest.mark.parametrize("wanted", [7, 5000, PACKET_BYTES, 200_000])
def test_a_content_is_read_whatever_arrives_with_it(pipe, step, wanted):
    parts = content([1, PACKET_BYTES, 4, 1000, PACKET_BYTES] if step != 1 else [1, 300, 4])
    data = b"".join(packet(part) for part in parts)
    thread = feed(pipe, packet(b"command=clean\n") + b"0000" + data + b"0000" * 2, step)
    reader = PacketReader(pipe[0])
    assert reader.read_list() == ["command=clean"]
    reader.begin()
    found = b""
    buffer = bytearray(wanted)
    while count := reader.readinto(buffer):
        found += buffer[:count]
        assert count == wanted or len(found) == sum(map(len, parts))
    thread.join()
    assert found == b"".join(parts)
    assert reader.read(10) == b""
    assert reader.read_list() == []
    assert reader.read_list() is None


def test_reading_by_size_and_draining(pipe):
    parts = content([100, 70, PACKET_BYTES])
    feed(pipe, b"".join(packet(part) for part in parts) + b"0000" + packet(b"a=b") + b"0000")
    reader = PacketReader(pipe[0])
    reader.begin()
    assert reader.read(130) == b"".join(parts)[:130]
    reader.drain()
    assert reader.read() == b""
    assert reader.read_list() == ["a=b"]


def test_reading_all(pipe):
    parts = content([100, PACKET_BYTES, 1])
    feed(pipe, b"".join(packet(part) for part in parts) + b"0000")
    reader = PacketReader(pipe[0])
    reader.begin()
    assert reader.read() == b"".join(parts)


@pytest.mark.parametrize("end", [b"", b"00", packet(b"x" * 50)[:20], packet(b"x" * 50)])
def test_an_input_that_breaks_off(pipe, end):
    feed(pipe, packet(b"first") + end)
    reader = PacketReader(pipe[0])
    reader.begin()
    with pytest.raises(GitError, match="Git ended in the middle"):
        reader.read()


@pytest.mark.parametrize("data", [b"hello", b"0001", b"0003"])
def test_what_is_no_packet(pipe, data):
    feed(pipe, data)
    with pytest.raises(UsageError, match="run by Git"):
        PacketReader(pipe[0]).read_list()


@pytest.mark.parametrize("size", [0, 1, PACKET_BYTES, PACKET_BYTES + 1, 40 * 2**20 + 5])
def test_what_is_written_is_read(pipe, size):
    (data,) = content([size])
    received = []

    def read():
        reader = PacketReader(pipe[0])
        received.append(reader.read_list())
        reader.begin()
        received.append(reader.read())
        received.append(reader.read_list())

    thread = threading.Thread(target=read)
    thread.start()
    writer = PacketWriter(pipe[1])
    writer.write_list("status=success", "ü")
    writer.write(np.frombuffer(data, np.uint8))
    writer.write_list()
    writer.write_list("end")
    thread.join()
    assert received == [["status=success", "ü"], data, ["end"]]


def test_interrupted_writes_go_on(pipe, monkeypatch):
    """A system call may take a part, at any byte."""
    (data,) = content([300_000])
    whole = b"".join(
        packet(data[start : start + PACKET_BYTES]) for start in range(0, len(data), PACKET_BYTES)
    )
    random = np.random.default_rng(1)
    sent = bytearray()

    def some(_, buffers):
        joined = b"".join(buffers)
        count = int(random.integers(1, max(len(joined) // 3, 2)))
        sent.extend(joined[:count])
        return count

    monkeypatch.setattr(os, "writev", some)
    PacketWriter(pipe[1]).write(data)
    assert sent == whole
