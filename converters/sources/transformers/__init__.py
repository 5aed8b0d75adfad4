"""Folders in the layout of Hugging Face Transformers.

Start with ``models``; ``processors`` reads image processors as data.
"""
