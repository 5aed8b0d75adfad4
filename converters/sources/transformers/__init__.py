"""Folders in the layout of Hugging Face Transformers.

The converters import it. Start with ``models``; ``processors`` reads the configuration of image processors.
"""
