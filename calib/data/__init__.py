"""Images for calibration and evaluation: folders, lists, videos, and the images that two datasets share.

The rest of ``vitedge.calib``, the reports, the converters and the front door import it. Start with ``dataset``.
"""
