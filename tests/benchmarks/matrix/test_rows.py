"""Rows come back from JSON as they were, and what is not measured yet is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any


def test_rows_come_back_from_json_as_they_were(rows: Any, row: Any, tmp_path: Path) -> None:
    rows.write_rows(tmp_path / "new" / "matrix.json", [row], 16)
    assert rows.read_rows(tmp_path / "new" / "matrix.json") == [row]
    assert rows.read_rows(tmp_path / "nothing.json") == []


def test_what_is_done_with_these_versions_is_not_done_again(every_model: Any, rows: Any, row: Any) -> None:
    deit = next(each for each in every_model if each.name == row.name)
    others = [each for each in every_model if each.name != row.name]
    assert rows.remaining([deit, *others], [row], {"torch": "2"}) == others
    assert deit in rows.remaining([deit, *others], [row], {"torch": "3"})


def test_what_was_not_timed_beside_the_peers_is_done_again(every_model: Any, rows: Any, row: Any) -> None:
    deit = next(each for each in every_model if each.name == row.name)
    refused = replace(row, comparison=replace(row.comparison, refused="9 rounds had a load above 3.0"))
    for without in (replace(row, comparison=None), refused):
        assert rows.remaining([deit], [without], {"torch": "2"}) == [deit]
    failed = rows.failed_row(deit, "it died")
    assert rows.remaining([deit], [failed], failed.versions) == []  # nothing to time


def test_a_new_row_takes_the_place_of_its_old_one_in_the_order_of_the_list(rows: Any, row: Any) -> None:
    swin = replace(row, name="swin_tiny_patch4_window7_224", family="Swin")
    again = replace(row, parameters=1)
    assert rows.with_row([row, swin], again) == [again, swin]
    assert rows.with_row([swin], row) == [row, swin]
