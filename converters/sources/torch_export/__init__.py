"""Programs of ``torch.export`` (``.pt2``): read by roles, written anew, loaded in a sandboxed child.

Start with ``programs``, the parent; ``worker`` is the child, ``schema``, ``expressions`` and ``archives`` are what it
is allowed to see.
"""
