"""The backend that compiles a graph to OpenVINO IR.

``vitedge.converters.backends`` names it; nothing else imports it. Start with ``backend``.
"""
