"""The page at `/lifecycle`: what is in production, what could be, and the moves between; no JavaScript."""
