"""Weight files to tensors, without running code from them.

The loaders of ``vitedge.converters.sources`` import it. Start with ``checkpoints``.
"""
