"""What people run against a node: load generator and benchmarks."""
