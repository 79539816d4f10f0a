import io
import os
import tarfile

import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from webdataset.tariterators import group_by_keys, tar_file_expander

from ray_diffusion.data.tar import Member, index

BASES = st.text("abPN.-_é", min_size=1, max_size=40).filter(lambda base: base[0] != ".")
NAMES = st.lists(BASES, min_size=1, max_size=5).map("/".join)
FILES = st.lists(st.tuples(NAMES, st.binary(max_size=1500)), min_size=1, max_size=8)
FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def tar(files: list[tuple[str, bytes]], format: int = tarfile.USTAR_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as writer:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            writer.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def indexed(content: bytes, verified: bool = True) -> list[Member]:
    descriptor = os.memfd_create("shard")
    try:
        os.write(descriptor, content)
        return index(descriptor, verified)
    finally:
        os.close(descriptor)


def contents(content: bytes) -> list[tuple[str, dict[str, bytes]]]:
    return [
        (key, {name: content[at : at + size] for name, (at, size) in fields.items()})
        for key, fields in indexed(content)
    ]


def by_webdatasets_rule(files: list[tuple[str, bytes]]) -> list[tuple[str, dict[str, bytes]]]:
    examples: list[tuple[str, dict[str, bytes]]] = []
    for name, content in files:
        folder, slash, base = name.rpartition("/")
        stem, _, extension = base.partition(".")
        key = folder + slash + stem
        if not examples or examples[-1][0] != key:
            examples.append((key, {}))
        examples[-1][1][extension.lower()] = content
    return examples


@given(FILES, st.sampled_from(FORMATS))
def test_every_file_is_found_where_tarfile_finds_it(files: list[tuple[str, bytes]], format: int):
    try:
        shard = tar(files, format)
    except ValueError:  # a name that this format has no room for
        return
    with tarfile.open(fileobj=io.BytesIO(shard)) as reader:
        stored = [(entry.name, reader.extractfile(entry).read()) for entry in reader]
    assert contents(shard) == by_webdatasets_rule(stored)
    assert indexed(shard, verified=False) == indexed(shard)


def test_what_webdataset_writes_is_what_it_reads():
    file = io.BytesIO()
    with webdataset.TarWriter(file, mtime=0) as writer:
        for i in range(3):
            writer.write({"__key__": f"folder.v2/key-{i}", "png": b"%d" % i, "cls": b"7"})
    source = [{"url": "shard.tar", "stream": io.BytesIO(file.getvalue())}]
    expected = [
        (one["__key__"], {"png": one["png"], "cls": one["cls"]})
        for one in group_by_keys(tar_file_expander(source))
    ]
    assert len(expected) == 3
    assert contents(file.getvalue()) == expected


def test_times_that_gnu_tar_keeps_where_others_keep_folders_are_no_part_of_a_name():
    header = bytearray(tar([("a.png", b"x")], tarfile.GNU_FORMAT))
    header[345:357] = b"14560747433\0"  # when it was last read
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    assert contents(bytes(header)) == [("a", {"png": b"x"})]


def test_folders_and_links_are_no_examples():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as writer:
        for name, kind in (("a", tarfile.DIRTYPE), ("a/l.png", tarfile.SYMTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "/etc/passwd"
            writer.addfile(entry)
        writer.addfile(tarfile.TarInfo("a/b.png"))
    assert contents(file.getvalue()) == [("a/b", {"png": b""})]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("long", [False, True])
def test_a_shard_cut_anywhere_is_refused(format: int, long: bool):
    folder = "f" * 80 + "/"
    names = [f"{folder * long}{'n' * (90 * long)}{i}.png" for i in range(3)]
    if long and format == tarfile.USTAR_FORMAT:
        names = [f"{folder}{'n' * 90}{i}.png" for i in range(3)]
    shard = tar([(name, b"x" * 700) for name in names], format)
    assert len(indexed(shard)) == 3
    end = len(shard.rstrip(b"\0"))
    end += -end % tarfile.BLOCKSIZE  # what follows is the mark of the end
    for length in range(0, end + 1, 128):
        for verified in (True, False):
            with pytest.raises(tarfile.TarError):
                indexed(shard[:length], verified)


@pytest.mark.parametrize("content", [b"", b"not a tar " * 100, b"\xff" * 10240])
@pytest.mark.parametrize("verified", [True, False])
def test_what_is_no_tar_is_refused(content: bytes, verified: bool):
    with pytest.raises(tarfile.TarError):
        indexed(content, verified)


@given(st.integers(0, 511), st.integers(1, 255), st.integers(0, 2))
def test_a_damaged_header_of_an_unverified_shard_is_refused(at: int, flip: int, number: int):
    shard = bytearray(tar([(f"{i}.png", b"x" * 700) for i in range(3)]))
    shard[number * 3 * tarfile.BLOCKSIZE + at] ^= flip
    try:
        found = indexed(bytes(shard), verified=False)
    except tarfile.TarError:
        return
    # What the checksum's own field may hold beside its digits, and nothing else.
    assert 148 <= at < 156
    assert [member.key for member in found] == ["0", "1", "2"]
