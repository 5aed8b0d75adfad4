"""timm names, hub folders and bare checkpoints.

Start with ``models``; ``config`` reads timm's configuration as data.
"""
