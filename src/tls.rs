//! TLS material and configurations; pure over PEM bytes.
