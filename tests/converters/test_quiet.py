from __future__ import annotations

import io
import logging
import sys
import warnings

import pytest

from vitedge.converters.quiet import quiet
from vitedge.progress import Terminal


def test_prints_warnings_and_records_are_discarded(capsys: pytest.CaptureFixture[str]) -> None:
    logging.basicConfig(force=True, stream=sys.stderr)
    with quiet():
        print("a print")  # noqa: T201
        sys.stderr.write("a bar")
        warnings.warn("a warning", stacklevel=1)
        logging.getLogger("library").warning("a record")
        logging.getLogger("library").critical("a record that quotes \x1b[31m")
    assert capsys.readouterr() == ("", "")


def test_progress_still_shows() -> None:
    stream = io.StringIO()
    progress = Terminal(stream)
    with quiet():
        progress.step("exporting")
    assert "exporting" in stream.getvalue()


def test_all_is_restored_after_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    disabled = logging.root.manager.disable
    with pytest.raises(KeyError), quiet():
        raise KeyError
    print("heard")  # noqa: T201
    assert capsys.readouterr().out == "heard\n"
    assert logging.root.manager.disable == disabled
    with pytest.warns(UserWarning, match="seen"):
        warnings.warn("seen", stacklevel=1)
