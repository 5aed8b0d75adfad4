"""What this machine is and has: processor, load, cameras, and a small cache between runs.

Every room above the vocabulary may import it. Start with ``machine``.
"""
