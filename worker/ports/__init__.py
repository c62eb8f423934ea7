"""Ports: what the story needs of the world. Adapters fulfil them; only bootstrap names those."""
