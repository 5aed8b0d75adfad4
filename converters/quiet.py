"""Keep the output of conversion libraries off the terminal of the user."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Discard warnings, log records, prints and progress bars of the code inside: they quote untrusted text.

    Warnings and log records pass where the logger ``vitedge`` is set to ``DEBUG``, as ``--verbose`` does. Progress
    reporters hold their own stream and still write. Errors are raised as usual.
    """
    disabled, is_verbose = logging.root.manager.disable, logging.getLogger("vitedge").isEnabledFor(logging.DEBUG)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        if not is_verbose:
            warnings.simplefilter("ignore")
            logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)
