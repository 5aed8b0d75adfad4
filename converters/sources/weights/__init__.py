"""Read weights files into state dicts, without running code from them.

The loaders of ``vitedge.converters.sources`` import it. Start with ``checkpoints``.
"""
