"""A seeded fuzzer for the files that strangers make: start reading in ``campaign``.

seeds      good files of each format
mutations  what is done to them
subjects   what vitedge does with the result, and whether an accepted answer is right
worker     the process that runs cases, watched from inside (code, connections, memory)
campaign   starts workers, watches them from outside (time, crashes) and counts
"""
