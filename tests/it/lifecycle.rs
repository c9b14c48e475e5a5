//! Start and stop: signals, and starts that cannot be.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::backend::Backend;
use crate::client::{Http, connect, tls};
use crate::gateway::{Gateway, PATIENCE, Site, free_port, gateway, routes, secured, service, to};

async fn start(arguments: &[&str]) -> (Site, Backend, Gateway) {
    let echo = Backend::http1().await;
    let site = Site::new();
    site.certificate("a", &["a.com"]);
    site.config("all", &secured(echo.port));
    let gateway = site.start_with(&[80, 443], arguments);
    (site, echo, gateway)
}

// The client answers the goodbye while this thread waits.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_finishes_what_is_under_way_and_exits_with_0() {
    let (site, echo, gateway) = start(&["--workers", "1"]).await;
    let mut upload = connect(gateway.port(80)).await;
    upload
        .write_all(b"PUT / HTTP/1.1\r\nhost: a.com\r\ncontent-length: 4\r\n\r\nab")
        .await
        .unwrap();
    let mut idle = Http::secure(&tls(&site.edge, None, &["h2"]), gateway.port(443), "a.com").await;
    assert_eq!(idle.get("https://a.com/").await.status, 200);
    gateway.wait("both are with the backend", || echo.connections() >= 2);
    gateway.signal("-TERM");
    gateway.wait("it is not ready", || gateway.status("/healthz/ready") == Some(503));
    assert_eq!(gateway.status("/healthz/live"), Some(200));
    let one = "portcullis_connections_active{kind=\"http\"} 1";
    gateway.wait("the idle one is closed", || gateway.metrics().contains(one));
    upload.write_all(b"cd").await.unwrap();
    let mut answer = String::new();
    upload.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    assert!(gateway.ended().success());
}

/// Reads one HTTP/2 frame: type, flags, stream, payload.
async fn frame(stream: &mut TcpStream) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let mut payload = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
    stream.read_exact(&mut payload).await.ok()?;
    let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    Some((head[3], head[4], id, payload))
}

const GOAWAY: u8 = 7;

/// Reads frames, answering SETTINGS and PING, until one of a type comes; nothing at the end.
async fn await_frame(stream: &mut TcpStream, wanted: u8) -> Option<(u8, u32, Vec<u8>)> {
    loop {
        let (kind, flags, id, payload) = timeout(PATIENCE, frame(stream)).await.unwrap()?;
        if matches!(kind, 4 | 6) && flags & 1 == 0 {
            let body = if kind == 6 { payload.as_slice() } else { &[] };
            let length = u8::try_from(body.len()).unwrap();
            let head = [0, 0, length, kind, 1, 0, 0, 0, 0];
            stream.write_all(&[&head, body].concat()).await.unwrap();
        }
        if kind == wanted {
            return Some((flags, id, payload));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_2_client_is_told_to_go_away_and_its_stream_is_finished() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let site = Site::new();
    site.config(
        "all",
        &(gateway("plain", 80, "HTTP", "'*'", "")
            + &routes("r", "istio-system/plain", "a.com", &to("slow"))
            + &service("slow", "HTTP", listener.local_addr().unwrap().port())),
    );
    let gateway = site.start(&[80]);
    let mut client = connect(gateway.port(80)).await;
    let start = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    // GET http://a.com/ on stream 1, from HPACK's static table.
    let request = b"\x00\x00\x0a\x01\x05\x00\x00\x00\x01\x82\x86\x84\x41\x05a.com";
    client.write_all(&[&start[..], request].concat()).await.unwrap();
    let (mut backend, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(backend.read_u8().await.unwrap());
    }
    gateway.signal("-TERM");
    let (_, _, said) = await_frame(&mut client, GOAWAY).await.expect("a GOAWAY before the end");
    assert_eq!(said[4..8], [0; 4], "NO_ERROR");
    backend.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await.unwrap();
    let (_, id, head) = await_frame(&mut client, 1).await.unwrap();
    assert_eq!((id, head[0]), (1, 0x88), ":status 200");
    let mut body = Vec::new();
    loop {
        let (flags, id, data) = await_frame(&mut client, 0).await.unwrap();
        assert_eq!(id, 1);
        body.extend(data);
        if flags & 1 == 1 {
            break;
        }
    }
    assert_eq!(body, b"done");
    while let Some((_, _, said)) = await_frame(&mut client, GOAWAY).await {
        assert_eq!(said[..8], [0, 0, 0, 1, 0, 0, 0, 0], "the last stream, NO_ERROR");
    }
    assert!(gateway.ended().success());
    assert!(!gateway.err().contains("cut"), "{}", gateway.err());
}

#[tokio::test]
async fn a_client_that_never_said_a_word_does_not_hold_the_end_back() {
    let (_site, _echo, gateway) = start(&[]).await;
    let mut silent = connect(gateway.port(80)).await;
    let one = "portcullis_connections_active{kind=\"http\"} 1";
    gateway.wait("it is accepted", || gateway.metrics().contains(one));
    let asked = Instant::now();
    gateway.signal("-TERM");
    assert!(gateway.ended().success());
    // A head may take 10 s.
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    assert!(!gateway.err().contains("cut"), "{}", gateway.err());
    assert_eq!(silent.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_reader_of_the_access_log_that_stopped_reading_does_not_hold_the_end_back() {
    let site = Site::new();
    site.config(
        "all",
        &(gateway("plain", 80, "HTTP", "'*'", "")
            + &routes(
                "r",
                "istio-system/plain",
                "a.com",
                "  http: [{directResponse: {status: 204}}]\n",
            )),
    );
    let port = free_port();
    let mut child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args([
            "run",
            "--config",
            "config",
            "--certs",
            "certs",
            "--state",
            "off",
            "--bind",
            "127.0.0.1",
        ])
        .args(["--status", "off", "--metrics", "off", "--admin", "off"])
        .args(["--port-map", &format!("80={port}"), "--access-log", "json"])
        .current_dir(site.dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // More lines than a pipe holds.
    let mut http = Http::plain(port).await;
    for _ in 0..400 {
        assert_eq!(http.get("http://a.com/").await.status, 204);
    }
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let asked = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if asked.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("it does not end");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_and_a_second_signal_cut_what_is_left() {
    for (arguments, signals) in [(&["--drain-deadline", "200ms"][..], 1), (&[], 2)] {
        let (_site, echo, gateway) = start(arguments).await;
        let mut stuck = connect(gateway.port(80)).await;
        stuck
            .write_all(b"PUT / HTTP/1.1\r\nhost: a.com\r\ncontent-length: 4\r\n\r\nab")
            .await
            .unwrap();
        gateway.wait("it is with the backend", || echo.connections() >= 1);
        gateway.signal("-TERM");
        if signals == 2 {
            gateway.tells("draining");
            gateway.signal("-TERM");
        }
        assert!(gateway.ended().success());
        assert!(gateway.err().contains("cut"), "{}", gateway.err());
    }
}

#[tokio::test]
async fn nothing_is_said_to_be_cut_where_nothing_was_open() {
    let (_site, _echo, gateway) = start(&["--drain-delay", "20s"]).await;
    gateway.signal("-TERM");
    gateway.tells("draining");
    gateway.signal("-TERM");
    assert!(gateway.ended().success());
    let said = gateway.err();
    assert!(said.contains("no connection was open") && !said.contains("cut"), "{said}");
}

/// Starts what cannot start, and says why.
fn refused(site: &Site, ports: &[u16], arguments: &[&str]) -> String {
    let gateway = site.spawn(ports, arguments);
    assert_eq!(gateway.ended().code(), Some(1), "{}", gateway.err());
    let said = gateway.err();
    assert!(!said.contains("panicked"), "{said}");
    said
}

#[tokio::test]
async fn what_cannot_start_says_what_to_do() {
    let site = Site::new();
    site.config("g", &gateway("plain", 80, "HTTP", "'*'", ""));
    fs::rename(site.path("config"), site.path("away")).unwrap();
    let said = refused(&site, &[], &[]);
    assert!(said.contains("\"config\" cannot be read") && said.contains("--config"), "{said}");
    fs::rename(site.path("away"), site.path("config")).unwrap();

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let said = refused(&site, &[], &["--port-map", &format!("80={port}")]);
    assert!(said.contains(&port.to_string()) && said.contains("the port is in use"), "{said}");
    let place = "Gateway istio-system/plain config/g.yaml:5:";
    let end = said.lines().last().unwrap();
    let parts = ["error: nothing can be served: ", place, "stop the other program"];
    assert!(parts.iter().all(|part| end.contains(part)), "{said}");
    let said = refused(&site, &[80], &["--mesh-config", "nowhere.yaml"]);
    assert!(said.contains("nowhere.yaml"), "{said}");
}

/// A plaintext Gateway with an address of its own.
fn bound(name: &str, port: u16, bind: &str) -> String {
    gateway(name, port, "HTTP", "'*'", "")
        .replace("servers: [{", &format!("servers: [{{bind: '{bind}', "))
}

#[tokio::test]
async fn what_can_be_bound_is_served_from_the_start_and_the_rest_is_tried_again() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let site = Site::new();
    fs::write(site.path("file"), "no socket").unwrap();
    let file = format!("unix://{}", site.path("file").display());
    let all = gateway("good", 80, "HTTP", "'*'", "")
        + &bound("mapped", 81, "::ffff:127.0.0.1")
        + &gateway("taken", 82, "HTTP", "'*'", "")
        + &bound("away", 83, "192.0.2.77")
        + &bound("file", 0, &file)
        + &bound("link", 85, "fe80::1");
    site.config("g", &all);
    let gateway = site.start_with(&[80, 81, 83], &["--port-map", &format!("82={port}")]);
    for served in [80, 81] {
        let mut http = Http::plain(gateway.port(served)).await;
        assert_eq!(http.get("http://a.com/").await.status, 404, "{served}");
    }
    let found = gateway.admin("/diagnostics");
    let told: Vec<_> = found["diagnostics"].as_array().unwrap().iter().collect();
    let one = |name: &str, code: &str, field: &str, message: &str, help: &str| {
        let told = told.iter().find(|one| one["resource"]["name"] == name && one["code"] == code);
        let told = told.unwrap_or_else(|| panic!("{name} {code}: {found}"));
        assert!(told["message"].as_str().unwrap().contains(message), "{told}");
        assert!(told["help"].as_str().unwrap().contains(help), "{told}");
        assert_eq!(told["field"], field, "{told}");
        assert!(told["line"].as_u64() > Some(1) && told["column"].as_u64() > Some(1), "{told}");
    };
    let [port_field, bind] = ["spec.servers[0].port", "spec.servers[0].bind"];
    one("taken", "PC036", port_field, "the port is in use", "stop the other program");
    one(
        "away",
        "PC036",
        bind,
        "no interface of this machine",
        "the server's bind; binding is tried",
    );
    one("file", "PC036", bind, "a file that is no socket", "remove it");
    one("link", "PC035", bind, "link-local", "choose an address of this machine");
    let errors = |count: usize| {
        let line = format!("portcullis_config_diagnostics{{severity=\"error\"}} {count}\n");
        gateway.metrics().contains(&line)
    };
    assert!(errors(4), "{}", gateway.metrics());
    drop(taken);
    gateway.wait("the port is served and the rest is told of", || errors(3));
    assert_eq!(Http::plain(port).await.get("http://a.com/").await.status, 404);
    gateway.signal("-TERM");
    assert!(gateway.ended().success());
}

#[tokio::test]
async fn a_start_with_nothing_to_bind_says_how_much_there_is() {
    let site = Site::new();
    site.config("g", &(bound("one", 80, "192.0.2.77") + &bound("two", 81, "192.0.2.77")));
    let said = refused(&site, &[], &[]);
    assert!(said.contains("(1 more; each is told above)"), "{said}");
    assert!(said.contains("Gateway istio-system/one config/g.yaml:5:"), "{said}");
    assert!(said.contains("config/g.yaml:10:"), "{said}");
}

#[tokio::test]
async fn a_port_of_the_programs_own_is_no_servers() {
    let site = Site::new();
    site.config("g", &gateway("plain", 80, "HTTP", "'*'", ""));
    let gateway_at = |port| gateway("own", port, "HTTP", "'*'", "");
    let gateway = site.start(&[80]);
    let port = gateway.status_port();
    gateway.reload(|| _ = site.config("own", &gateway_at(port)));
    let found = gateway.admin("/diagnostics").to_string();
    let flag = format!("--status has 127.0.0.1:{port} for this program itself");
    assert!(found.contains("PC030") && found.contains(&flag), "{found}");
    assert_eq!(gateway.status("/healthz/ready"), Some(200));
}

#[tokio::test]
async fn a_port_in_use_is_bound_soon_after_it_is_free() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let site = Site::new();
    site.config("g", &gateway("plain", 80, "HTTP", "'*'", ""));
    let gateway_of_81 = gateway("more", 81, "HTTP", "'*'", "");
    let gateway = site.start_with(&[80], &["--port-map", &format!("81={port}")]);
    gateway.reload(|| _ = site.config("more", &gateway_of_81));
    let told = || gateway.admin("/diagnostics").to_string().contains("PC036");
    let errors = |count: usize| {
        let line = format!("portcullis_config_diagnostics{{severity=\"error\"}} {count}\n");
        gateway.metrics().contains(&line)
    };
    gateway.wait("it is told", || told() && errors(1));
    drop(taken);
    gateway.tells("could be bound and is served now");
    gateway.wait("it is told no more", || !told() && errors(0));
    assert_eq!(Http::plain(port).await.get("http://a.com/").await.status, 404);
}

#[tokio::test]
async fn a_hangup_is_no_signal_to_stop() {
    let site = Site::new();
    site.config("g", &gateway("plain", 80, "HTTP", "'*'", ""));
    let gateway = site.start(&[80]);
    gateway.signal("-HUP");
    gateway.tells("SIGHUP");
    assert_eq!(gateway.status("/healthz/ready"), Some(200));
    gateway.signal("-TERM");
    assert_eq!(gateway.ended().code(), Some(0));
}

#[tokio::test]
async fn hostile_files_harm_themselves_alone() {
    let (site, _echo, gateway) = start(&[]).await;
    let mut bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for name in 'b'..='j' {
        let before = char::from_u32(u32::from(name) - 1).unwrap();
        let nine = vec![format!("*{before}"); 9].join(", ");
        writeln!(bomb, "{name}: &{name} [{nine}]").unwrap();
    }
    gateway.reload(|| {
        site.config("bomb", &bomb);
    });
    gateway.reload(|| site.write("config/huge.yaml", vec![b'#'; 50 << 20]));
    gateway.reload(|| site.write("config/binary.yaml", [0, 159, 146, 150]));
    gateway.reload(|| symlink("/proc/self/mem", site.path("config/odd.yaml")).unwrap());
    for name in ["bomb", "huge", "binary"] {
        gateway.wait(name, || gateway.err().contains(&format!("config/{name}.yaml")));
    }
    let mut http = Http::plain(gateway.port(80)).await;
    assert_eq!(http.get("http://a.com/").await.status, 200);
}

#[tokio::test]
async fn a_key_that_cannot_be_read_is_named_and_its_server_goes_on() {
    let (site, _echo, gateway) = start(&[]).await;
    let key = site.path("certs/a/tls.key");
    if rustix_is_root() {
        // Nothing is unreadable to root; a folder in its place is.
        gateway.reload(|| {
            fs::remove_file(&key).unwrap();
            fs::create_dir(&key).unwrap();
        });
    } else {
        gateway.reload(|| fs::set_permissions(&key, fs::Permissions::from_mode(0o000)).unwrap());
    }
    gateway.tells("certs/a/tls.key");
    let mut http = Http::secure(&tls(&site.edge, None, &["h2"]), gateway.port(443), "a.com").await;
    assert_eq!(http.get("https://a.com/").await.status, 200);
}

#[tokio::test]
async fn without_file_descriptors_what_is_open_goes_on_and_the_rest_waits() {
    let (_site, _echo, gateway) = start(&["--workers", "1"]).await;
    let mut kept = Http::plain(gateway.port(80)).await;
    assert_eq!(kept.get("http://a.com/").await.status, 200);
    let open = fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap().count() as u64;
    let limits = format!("--nofile={0}:{0}", open + 8);
    let pid = format!("--pid={}", gateway.pid());
    assert!(Command::new("prlimit").args([pid, limits]).status().unwrap().success());
    let mut crowd = Vec::new();
    for _ in 0..40 {
        crowd.push(connect(gateway.port(80)).await);
    }
    gateway.tells("ulimit -n");
    for _ in 0..5 {
        assert_eq!(kept.get("http://a.com/").await.status, 200);
    }
    drop(crowd);
    let mut fresh = Http::plain(gateway.port(80)).await;
    assert_eq!(fresh.get("http://a.com/").await.status, 200);
    assert!(!gateway.err().contains("panicked"));
}

#[tokio::test]
async fn a_drain_that_is_asked_for_leaves_the_process_and_its_answers() {
    let (_site, _echo, gateway) = start(&["--workers", "1"]).await;
    let mut http = Http::plain(gateway.port(80)).await;
    assert_eq!(http.get("http://a.com/").await.status, 200);
    assert!(gateway.post("/drain").starts_with("HTTP/1.0 200"));
    gateway.wait("it is not ready", || gateway.status("/healthz/ready") == Some(503));
    let idle = "portcullis_connections_active{kind=\"http\"} 0";
    gateway.wait("the idle one is closed", || gateway.metrics().contains(idle));
    assert_eq!(gateway.status("/healthz/live"), Some(200));
}

#[test]
fn certificates_that_are_there_stay_as_they_are() {
    let site = Site::new();
    let make = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        // A flag's variable counts as the flag.
        command.arg("certs").env("PORTCULLIS_CERTS", "made").current_dir(site.path("."));
        assert!(command.output().unwrap().status.success());
        fs::read_to_string(site.path("made/shop-tls/tls.key")).unwrap()
    };
    let first = make();
    assert_eq!(make(), first);
}

#[tokio::test]
async fn with_too_few_file_descriptors_the_start_says_what_to_raise() {
    let (site, ..) = start(&[]).await;
    let gateway = ["run", "--config", "config", "--workers", "2"].as_slice();
    for (files, least, arguments) in [(6, 64, gateway), (63, 64, gateway), (40, 48, &["ca"])] {
        let mut command = Command::new("prlimit");
        command.args([&format!("--nofile={files}:{files}"), env!("CARGO_BIN_EXE_portcullis")]);
        let output = command.args(arguments).current_dir(site.path(".")).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        let error = format!(
            "error: {files} open files are allowed and a start takes {least}; raise the limit \
             (ulimit -n)\n"
        );
        assert_eq!(said, error);
    }
}

fn rustix_is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}
