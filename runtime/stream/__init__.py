"""Streams: the threads between a source of frames and the code that consumes their predictions.

The classifier imports it. Start with ``stream``, or with ``cameras`` for several. Both are a ``PredictionStream``, for
the application, and a ``Pipeline`` of threads. ``opening`` and ``reader`` read a source and open it again
(``reconnect``); frames become predictions in ``intake``, ``queue`` and ``workers``; ``states`` and ``stats`` tell what
happened.
"""
