"""The benchmarks: what the node is worth on this machine, measured side by side in one run.

``plan`` says which subjects there are and which transactions they need, ``workloads`` makes those
once, ``subjects`` measures one subject on a fresh copy of a data directory with a real node and a
real load generator, ``rounds`` repeats them in turns, ``figures`` declares every figure with its
floor and its aim and brings the rounds together. Nothing here is imported by the node, and nothing
measured here lives in the process that measures: it only starts, samples and stops.
"""
