"""The demo: handwritten digits before a synthetic camera, from a committed checkpoint to measured bundles."""
