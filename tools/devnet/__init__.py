"""A network of validators on one machine: made, started, watched, loaded, and stopped again."""
