"""Engines: each runs a compiled graph in a thread of its own, after a self-test against the golden vectors.

The classifier imports it. Start with ``base``: the Protocol, and the table of backends with a module each.
"""
