"""What happened: the language, the rules and the log of executions."""
