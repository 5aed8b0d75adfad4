"""Predictions passed to a function."""

from __future__ import annotations

from collections.abc import Callable

from vitedge.prediction import Prediction


class Callback:
    """Calls a function with each prediction.

    Args:
        function: the function; an exception that it raises ends the stream.
    """

    def __init__(self, function: Callable[[Prediction], object]) -> None:
        self._function = function

    def write(self, prediction: Prediction) -> None:
        """Call the function."""
        self._function(prediction)

    def close(self) -> None:
        """Do nothing."""
