"""Latency of bundles on this machine, measured through the classifier that applications use.

The front door, the reports, the precision search and the demo import it. Start with ``measure``, which holds ``bench``;
``timing`` times calls, ``ratio`` compares two bundles, ``cold_start`` times a fresh process, and ``text`` formats the
result.
"""
