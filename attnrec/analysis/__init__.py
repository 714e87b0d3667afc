"""Analysis of trained models: how widely attention spreads, and which heads can be removed."""
