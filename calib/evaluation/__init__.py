"""Accuracy of any classifier on a dataset of images, and the differences between two classifiers.

The reports, the converters, the command line and the demo import it. Start with ``accuracy``. ``predictions`` holds the
table that ``workers`` or a Dask cluster (``dask``) fill; ``resume_log`` keeps it on disk; ``score_calibration`` fits
temperature and threshold.
"""
