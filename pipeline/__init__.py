"""Staged pipelines of OS processes over shared-memory trays; knows nothing of what the items mean."""
