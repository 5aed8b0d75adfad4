"""Exact rewrites of the FP32 graph, one rule a module; each proves itself on the golden frames, or is not kept.

``vitedge.converters.pipeline`` and the backends import it. Start with ``apply``, which holds the order of the rules.
"""
