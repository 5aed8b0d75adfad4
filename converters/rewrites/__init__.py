"""Exact rewrites of the FP32 graph, one a file."""
