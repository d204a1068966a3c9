"""How alike texts are: equal, nearly equal, or with a passage in common."""
