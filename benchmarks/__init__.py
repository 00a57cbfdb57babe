"""What learned prompts cost, measured side by side: `python -m benchmarks NAME` (benchmarks/README.md)."""
