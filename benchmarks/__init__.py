"""Benchmarks of cas_ext against what a PyTorch user would write instead; docs/performance.md tells how to read them."""
