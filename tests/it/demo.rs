//! `portcullis demo`: what it prints works.

use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;

use tokio::time::Instant;

use crate::gateway::{Gateway, PATIENCE, Site};
use crate::ignored::keys_are_ignored;

/// The sample backends have ports of their own, so one demo runs at a time: whoever holds the UDP port
/// of the same number.
fn alone() -> UdpSocket {
    let begun = Instant::now();
    loop {
        if let Ok(held) = UdpSocket::bind(("127.0.0.1", 9400)) {
            return held;
        }
        assert!(begun.elapsed() < 3 * PATIENCE, "another demo does not end");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Runs a line of what was printed, with `shop` as it was defined there.
fn paste(site: &Site, definition: &str, line: &str) -> (bool, String) {
    let script = format!("shop() {{ {definition} -sS \"$@\"; }}\n{line}\n");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).current_dir(site.dir.path());
    for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(name);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.success(), text + &String::from_utf8_lossy(&output.stderr))
}

#[test]
fn the_demo_does_what_it_prints_and_ends_cleanly() {
    let _alone = alone();
    let site = Site::new();
    fs::remove_dir_all(site.path("certs")).unwrap();
    let shop = Path::new(env!("CARGO_MANIFEST_DIR")).join("gateways");
    let gateway: Gateway = site.launch("demo", shop.to_str().unwrap(), &[80, 443], &[]);
    gateway.tells("Ctrl-C ends it.");
    gateway.wait("it is ready", || gateway.status("/healthz/ready") == Some(200));
    let story = gateway.err();
    let line = |start: &'static str| {
        story.lines().map(str::trim).filter(move |line| line.starts_with(start))
    };
    let alias = line("alias shop=").next().unwrap();
    let definition = alias.trim_start_matches("alias shop='").trim_end_matches('\'');
    let commands: Vec<&str> = line("shop ").chain(line("curl ")).collect();
    let expected = [
        ("/items/1", true, "catalogue"),
        ("shop.example.com/cart", true, "cart"),
        ("token?sub=bob", true, "bob"),
        ("forged", true, " 401 "),
        ("shop https://admin", false, "curl: ("),
        ("--cert ", true, "admin"),
        ("legacy", true, "legacy"),
        ("curl -i http://127.0.0.1:9401", false, "curl: ("),
        ("curl -i --insecure", false, "curl: ("),
        ("curl -i --http1.1 --insecure", true, " 200 "),
        ("--connect-to", true, " 301 "),
    ];
    assert_eq!(commands.len(), expected.len(), "{commands:?}");
    for (part, succeeds, answer) in expected {
        let command = commands.iter().find(|command| command.contains(part)).unwrap();
        let (success, text) = paste(&site, definition, command);
        assert_eq!(success, succeeds, "{command}: {text}");
        assert!(text.contains(answer), "{command}: {text}");
    }
    gateway.signal("-INT");
    assert!(gateway.ended().success(), "{}", gateway.err());
    assert_eq!(keys_are_ignored(site.dir.path()), 9);
}
