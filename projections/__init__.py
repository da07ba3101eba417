"""What can be seen: views folded from the log."""
