"""Builds the graphs of a bundle on this device and keeps the fastest plan that passes its self-test.

``vitedge.build`` and ``vitedge.runtime.engines.tensorrt.open`` import it. Start with ``build``; ``worker`` is the child
process that calls ``builder``, and ``trtexec`` prints the command that builds by hand.
"""
