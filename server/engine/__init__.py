"""What runs inside vLLM's own processes: the prompt bank, its injection, the plugin; and the front end's
half of it (handles, residency). Each use of an internal of vLLM 0.32 stands in one module per seam."""
