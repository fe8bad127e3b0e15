"""The stages of the node, one file each, run by pipeline.stage."""
