//! Sockets and streams that know nothing of routes.
