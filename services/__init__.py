"""What makes it happen: the shell that obeys the core."""
