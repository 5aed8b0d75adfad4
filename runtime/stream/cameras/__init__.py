"""Several cameras on one classifier.

The classifier imports it. Start with ``streams``; ``turns`` says whose frame is next, ``saturation`` whether the engine
or its workers classify.
"""
