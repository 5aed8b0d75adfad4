"""``--precision auto``: the search for the fastest candidate that keeps a contract, and its report.

``vitedge.converters.pipeline`` imports it. Start with ``search``.
"""
