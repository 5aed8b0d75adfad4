"""A bundle in the form that other inference servers and pipelines read."""
