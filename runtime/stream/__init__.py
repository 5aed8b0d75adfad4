"""Streams: the threads between a source of frames and the code that consumes their predictions.

The classifier imports it. Start with ``stream``. ``reader`` reads a source and opens it again (``reconnect``), ``queue``
and ``workers`` take its frames to predictions, ``states`` and ``stats`` tell what happened.
"""
