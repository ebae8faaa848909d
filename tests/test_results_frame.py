"""The DataFrame of records: one row a figure, and nothing quietly left out."""

import pytest

from results import store
from results.frame import COLUMNS, frame
from tests.test_results_record import toy


def test_one_row_a_figure(tmp_path):
    for seed, value in enumerate((80.0, 82.0)):
        store.save(toy(metrics={"AP50": value, "AP": value / 2}, seed=seed), tmp_path)
    table = frame(tmp_path)
    assert tuple(table.columns) == COLUMNS and len(table) == 4
    assert table.query("metric == 'AP50'").value.mean() == 81.0
    assert table.paper_protocol.all() and str(table.started.dt.tz) == "UTC"


def test_no_records_give_an_empty_table_with_the_columns(tmp_path):
    assert tuple(frame(tmp_path).columns) == COLUMNS and len(frame(tmp_path)) == 0


def test_an_edited_record_stops_it(tmp_path):
    path = store.save(toy(metrics={"AP50": 80.0}), tmp_path)
    path.write_text(path.read_text().replace("80.0", "90.0"))
    with pytest.raises(ValueError, match="checksum"):
        frame(tmp_path)
