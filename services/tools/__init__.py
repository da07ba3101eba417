"""What an agent can do: tools, confined to their workspace."""
