"""The precision ``auto``: the search for the fastest candidate that meets a contract.

``vitedge.converters.stages`` imports it. Start with ``search``.
"""
