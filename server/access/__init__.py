"""Who may ask what, and how much of it: keys, routes, limits. Plain ASGI, around the task middleware."""
