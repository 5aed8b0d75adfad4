"""This machine: its processor, memory, load and cameras, and a small cache between runs.

Every room above the vocabulary may import it. Start with ``machine``; ``capabilities`` recommends a precision,
``cameras`` lists the V4L2 devices, and ``cache`` keeps small results between runs.
"""
