"""Graphs between items: relations, their edges, and graph attention that enriches item vectors."""
