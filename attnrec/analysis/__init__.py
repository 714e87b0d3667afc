"""Analysis of trained models: entropy of attention, and pruning of attention heads."""
