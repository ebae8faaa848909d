"""The tables' benchmark: its records are valid, and both ways read all of them (benchmarks/tables.py)."""

from benchmarks import tables


def test_both_ways_read_every_record(tmp_path):
    tables.write_records(tmp_path, 50)
    results, texts = tables.ours(tmp_path)
    assert len(results) == len(tables.plain(tmp_path)) == 50
    assert any("ours: net2 [00000000], n = 5" in text for text in texts)
