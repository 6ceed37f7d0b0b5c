"""Where the files in a tar lie: as tarfile and tar itself say, and never beyond the tar."""

import io
import random
import shutil
import subprocess
import tarfile

import pytest

from helpers.input_faults import FailingReads
from mambavl.configs.errors import SystemFault
from mambavl.extract import input_files
from mambavl.extract.input_files import InputFile
from mambavl.extract.tar_members import MOST_WORDS, members_of

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
NAMES = [
    "frame_0000000001.jpg",
    "./frame_0000000002.jpg",
    "d" * 80 + "/" + "e" * 60 + "/frame_0000000003.jpg",
    "Küche/frame_0000000004.jpg",
    "../../etc/passwd",
    "/absolute",
    "empty",
    "exact",
]
LONG = "l" * 300 + "/frame_0000000005.jpg"  # too long for ustar


def content_of(name):
    return {"empty": b"", "exact": b"x" * 1024}.get(name, name.encode() * 30)


def write(path, names, format):
    with tarfile.open(path, "w", format=format) as tar:
        for name in names:
            for kind in (
                tarfile.DIRTYPE,
                tarfile.SYMTYPE,
                tarfile.LNKTYPE,
                tarfile.FIFOTYPE,
                tarfile.CHRTYPE,
            ):
                other = tarfile.TarInfo("other/" + name)
                other.type, other.linkname = kind, name[:100]
                tar.addfile(other)
            member = tarfile.TarInfo(name)
            member.size = len(content_of(name))
            tar.addfile(member, io.BytesIO(content_of(name)))
    return path


def read(path):
    """Name -> content."""
    file = InputFile(path)
    try:
        members = list(members_of(file))
    finally:
        file.close()
        file.check()
    data = path.read_bytes()
    return {member.name: data[member.start : member.start + member.size] for member in members}


@pytest.mark.parametrize("format", FORMATS)
def test_what_tarfile_wrote_is_found_as_tarfile_finds_it(tmp_path, format):
    names = NAMES if format == "ustar" else [*NAMES, LONG]
    path = write(tmp_path / "a.tar", names, FORMATS[format])
    assert read(path) == {name: content_of(name) for name in names}
    with tarfile.open(path) as tar:
        theirs = [(member.name, member.offset_data, member.size) for member in tar if member.isreg()]
    file = InputFile(path)
    assert [tuple(member) for member in members_of(file)] == theirs
    file.close()


@pytest.mark.skipif(not shutil.which("tar"), reason="this machine has no tar")
@pytest.mark.parametrize("format", ["v7", "ustar", "gnu", "oldgnu", "posix"])
def test_what_tar_wrote_is_found(tmp_path, format):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(30):
        (folder / f"frame_{number:010d}.jpg").write_bytes(bytes([number]) * (700 * number))
    if format not in ("v7", "ustar"):
        (folder / "deep").mkdir()
        (folder / "deep" / ("n" * 200)).write_bytes(b"long")
    (folder / "link").symlink_to("frame_0000000000.jpg")
    command = ["tar", f"--format={format}", "-cf", tmp_path / "a.tar", "-C", folder, "."]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this machine's tar does not know the format")
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert read(tmp_path / "a.tar") == {f"./{path.relative_to(folder)}": path.read_bytes() for path in files}


def test_large_sizes_and_pax_sizes_are_read(tmp_path):
    """Members of 8 GiB and more, as their headers say it; the file is sparse."""
    size = 2**33 + 5
    for name, format in FORMATS.items():
        if name == "ustar":
            continue
        path = tmp_path / f"{name}.tar"
        first, second = tarfile.TarInfo("large"), tarfile.TarInfo("after")
        first.size, second.size = size, 3
        heads = [member.tobuf(format) for member in (first, second)]
        with open(path, "wb") as file:
            file.write(heads[0])
            start = file.tell()
            file.seek(start + -(-size // 512) * 512)
            file.write(heads[1] + b"end".ljust(512, b"\0") + bytes(1024))
        opened = InputFile(path)
        assert [tuple(member)[0::2] for member in members_of(opened)] == [("large", size), ("after", 3)]
        opened.close()


def damaged(path, data):
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"\w") as error:
        read(path)
    return str(error.value)


def test_a_tar_that_is_none_cut_off_or_damaged_says_so(tmp_path):
    path = write(tmp_path / "a.tar", ["one", "two", "exact"], tarfile.USTAR_FORMAT)
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        two = tar.getmember("two")
    assert damaged(path, b"") == "is empty"
    assert damaged(path, b"no tar at all" * 100) == "is no tar"
    assert "is cut off: a member at byte" in damaged(path, whole[: two.offset_data + 10])
    assert damaged(path, whole[: two.offset + 100]) == f"is cut off at byte {two.offset + 100:,}"
    for at in (0, 130, 150, 156, 300):
        changed = bytearray(whole)
        changed[two.offset + at] ^= 1
        assert (
            damaged(path, bytes(changed)) == f"is damaged at byte {two.offset:,}, where a member should begin"
        )
    path.write_bytes(whole[: -(-(two.offset_data + two.size) // 512) * 512])
    assert list(read(path)) == ["one", "two"]  # as tar, which takes the end of the file for the end


def test_headers_cannot_ask_for_memory_or_time(tmp_path):
    name = tarfile.TarInfo("././@LongLink")
    name.type, name.size = tarfile.GNUTYPE_LONGNAME, MOST_WORDS + 1
    path = tmp_path / "a.tar"
    said = damaged(path, name.tobuf(tarfile.GNU_FORMAT) + bytes(2 * MOST_WORDS))
    assert "are said to be a name" in said
    records = tarfile.TarInfo("pax")
    records.type = tarfile.XHDTYPE
    for content in (b"0 path=a\n", b"-3 path=a\n", b"99999 path", b"x", b"\xff" * 40):
        records.size = len(content)
        damaged(path, records.tobuf(tarfile.USTAR_FORMAT) + content.ljust(512, b"\0") + bytes(1024))
    content = b"11 size=-5\n"
    records.size = len(content)
    data = records.tobuf(tarfile.USTAR_FORMAT) + content.ljust(512, b"\0") + tarfile.TarInfo("a").tobuf()
    damaged(path, data)


@pytest.mark.parametrize("format", FORMATS)
def test_no_damage_gives_a_member_that_is_not_in_the_tar_or_another_error(tmp_path, format):
    path = write(tmp_path / "a.tar", NAMES[:4], FORMATS[format])
    whole, chance = path.read_bytes(), random.Random(0)
    for _ in range(300):
        changed = bytearray(whole)
        for _ in range(chance.choice((1, 8, 64))):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        path.write_bytes(changed)
        try:
            found = read(path)
        except ValueError:
            continue
        for name in found:
            assert len(found[name]) in {len(content_of(one)) for one in NAMES}


def test_an_error_of_the_system_is_no_damage(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tar", NAMES, tarfile.PAX_FORMAT)
    calls = FailingReads(first=10**9)
    monkeypatch.setattr(input_files, "calls", calls)
    read(path)
    for first in range(1, calls.made + 1, 7):
        monkeypatch.setattr(input_files, "calls", FailingReads(first=first))
        with pytest.raises(SystemFault):
            read(path)
