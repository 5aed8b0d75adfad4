"""Streams that run long, and streams that break: what ``benchmarks/soak.py`` and ``benchmarks/chaos.py`` run.

soak          a stream of many frames; memory, threads, descriptors and counts
chaos         what goes wrong in one run, drawn by a seed, and whether the stream ends clean
chaos_worker  the program that forks a process for each run
campaign      starts the worker, watches it from outside, and counts
"""
