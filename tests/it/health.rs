//! `portcullis health`: what a container's health check is told.

use std::process::Command;

use crate::gateway::{Gateway, Site, free_port};

/// Exit code and all that is said of asking a port of this machine.
fn health(port: u16) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    let output = command.args(["health", "--status", &format!("127.0.0.1:{port}")]).output();
    let output = output.unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[test]
fn a_ready_gateway_is_healthy_and_one_that_drains_is_not() {
    let site = Site::new();
    let gateway: Gateway = site.start_with(&[], &["--drain-delay", "1m"]);
    assert_eq!(health(gateway.status_port()), (Some(0), String::new()));
    gateway.signal("-TERM");
    gateway.wait("it is not ready", || gateway.status("/healthz/ready") == Some(503));
    let (code, said) = health(gateway.status_port());
    let expected = format!("127.0.0.1:{} is not ready", gateway.status_port());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&expected) && said.contains("503"), "{said}");
}

#[test]
fn where_nobody_listens_the_place_is_told() {
    let port = free_port();
    let (code, said) = health(port);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("no answer from 127.0.0.1:{port}")), "{said}");
    assert!(said.contains("is portcullis running there?"), "{said}");
}
