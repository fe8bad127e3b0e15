"""The load generator: makes signed payments in advance, sends them, and checks every answer.

``prepare`` (``workload``) writes a directory with a funded genesis and a file of transactions
(``workload_file``). ``run`` maps that file and sends it to a node's ingest socket (``sender``) at a
rate or flat out; what comes back goes to a ledger that knows what is true of each transaction
(``expected``); the outcome is a ``report``. Nothing here shares a process with the node: it is a
client like any other.
"""
