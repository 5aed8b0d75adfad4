"""Latency of bundles on this machine, measured through the classifier that applications use.

The command line, the precision search and the demo import it. Start with ``measure``.
"""
