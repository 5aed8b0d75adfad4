"""What results look like: text and JSON of evaluations and sensitivities, and self-contained HTML pages with plots.

The command line, the converters and the demo import it. Start with ``page``, the frame of every page, which loads
nothing from elsewhere; ``plot`` draws the SVG; each other module lays out one kind of result.
"""
