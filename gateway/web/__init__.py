"""The edge over HTTP: REST, live feeds, webhooks, and what operators look at."""
