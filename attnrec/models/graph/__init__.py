"""Graphs between items inside models: relations, neighbours, and graph attention over them."""
