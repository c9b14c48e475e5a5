//! Pure routing: request head in, route out.
