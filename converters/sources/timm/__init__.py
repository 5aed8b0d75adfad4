"""timm models by name, folders in timm's hub layout, and weights files.

The converters import it. Start with ``models``; ``builder`` calls timm, and ``config`` reads timm's configuration.
"""
