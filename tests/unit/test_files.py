import gzip
import os
import tracemalloc

import pytest

from constrained_dg import files
from constrained_dg.errors import InputError


def test_text_is_read_alike_packed_or_not(tmp_path):
    raw = b"\xef\xbb\xbfa\r\nb\rc\n\xc3\xa9"
    (tmp_path / "plain.txt").write_bytes(raw)
    (tmp_path / "packed.txt.gz").write_bytes(gzip.compress(raw))
    for name in ("plain.txt", "packed.txt.gz"):
        assert files.read_text(tmp_path / name, "give a file") == "a\nb\nc\né"


def test_what_cannot_be_read_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"a" * 9999)[:20])
    (tmp_path / "not.gz").write_bytes(b"plain")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    cases = {
        "nowhere": "no file .*nowhere.*; give a file",
        ".": "not a regular file",
        "fifo": "not a regular file",
        "cut.gz": "cannot be read",
        "not.gz": "cannot be read",
        "bytes": "cannot be read",
        "loop": "loop",
        "x" * 300: "File name too long",
        "a\0b": "a",
        "bytes/below": "below",
    }
    for name, message in cases.items():
        with pytest.raises(InputError, match=message):
            files.read_text(tmp_path / name, "give a file")


def test_a_packed_file_of_great_size_is_refused_in_little_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MOST_BYTES", 2**22)
    with gzip.open(tmp_path / "bomb.gz", "wb") as file:
        for _ in range(64):
            file.write(bytes(2**20))
    tracemalloc.start()
    with pytest.raises(InputError, match="holds more than 4 MiB"):
        files.read_text(tmp_path / "bomb.gz", "give a file")
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    files.write_whole(tmp_path / "a", "é")
    assert (tmp_path / "a").read_bytes() == "é".encode()
    with pytest.raises(UnicodeEncodeError):
        files.write_whole(tmp_path / "a", "\udce9")
    with pytest.raises(OSError, match="nowhere/a"):
        files.write_whole(tmp_path / "nowhere" / "a", "b")
    assert os.listdir(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "é"
