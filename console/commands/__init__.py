"""The commands, by what they are for. Each is thin and imports what it needs when it runs."""
