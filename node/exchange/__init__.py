"""How nodes give each other blocks: those that are proposed, and those that somebody has missed."""
