"""The backend that compiles a graph to OpenVINO IR.

``vitedge.converters.backends`` names it, and ``vitedge.inspect_graph`` uses ``audit_file``, which audits graphs of
strangers; nothing else imports it. Start with ``backend``.
"""
