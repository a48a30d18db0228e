"""Writers of binary recordings from values, for tests: the smallest file that shows the point at hand.

`event_format` declares tracepoints and packs their records, `ring_buffer` writes the kernel's pages,
`trace_dat` writes trace-cmd files of version 6 and 7, `perf_data` writes perf.data files and pipes.
"""
