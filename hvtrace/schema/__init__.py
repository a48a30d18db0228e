"""Every table hvtrace writes, declared once: columns with types and a sentence each.

`tracepoint` holds the words (Field, Tracepoint); `common` the columns every event table starts with;
`registry` all declared tracepoints; `tables` the other tables of a store.
"""
