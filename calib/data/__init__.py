"""Images for calibration and evaluation: folders, lists, videos, and which images two sets share.

The rest of ``vitedge.calib`` and the converters import it. Start with ``images``.
"""
