"""The journal: whole records survive, torn tails do not."""

from mambavl.cache import journal


def test_records_come_back_in_order(tmp_path):
    file = tmp_path / "a.journal"
    for i in range(5):
        journal.append(file, {"i": i, "text": "naïve\n"})
    assert [record["i"] for record in journal.read(file)] == list(range(5))


def test_a_tail_torn_at_any_byte_is_ignored_and_cut(tmp_path):
    file = tmp_path / "a.journal"
    journal.append(file, {"i": 0})
    whole = file.stat().st_size
    journal.append(file, {"i": 1, "more": "x" * 40})
    data = file.read_bytes()
    for cut in range(whole, len(data)):
        file.write_bytes(data[:cut])
        assert journal.read(file) == [{"i": 0}]
        assert journal.cut_torn_tail(file) == cut - whole
        journal.append(file, {"i": 2})
        assert journal.read(file) == [{"i": 0}, {"i": 2}]


def test_a_record_with_a_flipped_bit_ends_the_journal(tmp_path):
    file = tmp_path / "a.journal"
    journal.append(file, {"i": 0})
    journal.append(file, {"i": 1})
    data = bytearray(file.read_bytes())
    for position in range(len(data)):
        data[position] ^= 4
        file.write_bytes(data)
        assert len(journal.read(file)) < 2
        data[position] ^= 4
