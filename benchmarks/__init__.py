"""How fast it is, each figure next to what the log alone could do."""
