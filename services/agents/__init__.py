"""Who acts: agent types and the models that drive them."""
