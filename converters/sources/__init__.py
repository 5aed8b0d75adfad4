"""Sources of models: a name, a folder, a file or a factory becomes a module or a graph with its model card.

``vitedge.converters.pipeline`` imports it. Start with ``parse``, which decides what a source is; then read the loader
of that source.
"""
