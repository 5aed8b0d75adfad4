"""Exact rewrites of the FP32 graph, one rule a module, proved on the golden frames, or not kept.

``vitedge.converters.pipeline`` and the backends import it. Start with ``apply``, which holds the order of the rules.
"""
