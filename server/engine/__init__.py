"""What runs inside vLLM's own processes: the prompt bank, its injection, the plugin; and the front end's half
of it (handles, residency). Written for vLLM 0.32; each use of a vLLM internal stands in one module per seam."""
