"""Streams: the threads between a source of frames and the code that consumes their predictions.

The classifier imports it. Start with ``stream``. ``reader`` reads a source and opens it again (``reconnect``); frames
become predictions in ``queue`` and ``workers``; ``states`` and ``stats`` tell what happened.
"""
