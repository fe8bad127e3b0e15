"""Staged pipelines of OS processes over shared memory; knows nothing of what the items mean."""
