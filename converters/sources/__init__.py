"""Sources of models: turn a name, a folder, a file or a factory into a module or a graph, with its model card.

``vitedge.converters`` and the front door import it. Start with ``parse``, which decides the kind of a source; then read
the loader of that kind.
"""
