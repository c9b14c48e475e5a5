//! Pure load balancing: candidates, state and now in, choice out.
