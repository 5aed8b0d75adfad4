"""Public functions that belong to no other room: ``evaluate``, ``inspect``, ``doctor``, ``models`` and ``targets``.

``vitedge`` offers them, and the command line prints their results. Each module holds one function and its result type;
start with ``inspect``.
"""
