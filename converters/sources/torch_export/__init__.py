"""Programs of ``torch.export`` (``.pt2``): checked against a schema, rewritten, and loaded in a sandboxed child.

The converters import it. Start with ``programs``, the parent; ``worker`` is the child. ``archives``, ``schema``,
``readers`` and ``expressions`` check and rewrite what the child may see.
"""
