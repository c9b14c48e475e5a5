//! The cart's sidecar: the same program in a process of its own, as beside every application.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::backends::CART;
use crate::app::settings::Inputs;

/// Where callers of the cart connect, as `gateways/shop/` names it.
const CALLERS: &str = "127.0.0.1:9401";

/// How often it is looked whether it listens: 10 s in all.
const LOOKS: u32 = 500;
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// The process; it ends with this value.
pub(super) struct Sidecar(Child);

impl Drop for Sidecar {
    fn drop(&mut self) {
        // It may have ended with the terminal's Ctrl-C.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts it, and waits until callers can connect.
pub(super) fn start(inputs: &Inputs) -> anyhow::Result<Sidecar> {
    // Workers share their ports: one that another process left behind would not be noticed.
    drop(TcpListener::bind(CALLERS).with_context(|| format!("{CALLERS} cannot be listened at"))?);
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["sidecar", "--inbound", &format!("{CALLERS}={CART}")]);
    command.args(["--namespace", "shop", "--labels", "app=cart"]);
    command.args(["--status", "off", "--metrics", "off", "--admin", "off", "--state", "off"]);
    command.args(["--access-log", "off", "--log-level", "warn"]);
    command.arg("--certs").arg(&inputs.certs).arg("--identity").arg(inputs.certs.join("backend"));
    for config in &inputs.config {
        command.arg("--config").arg(config);
    }
    if let Some(domain) = &inputs.trust_domain {
        command.args(["--trust-domain", domain]);
    }
    let child = command.stdin(Stdio::null()).spawn().context("the cart's sidecar cannot start")?;
    let mut sidecar = Sidecar(child);
    for _ in 0..LOOKS {
        if TcpStream::connect(CALLERS).is_ok() {
            return Ok(sidecar);
        }
        if let Some(status) = sidecar.0.try_wait()? {
            bail!("the cart's sidecar ended: {status}");
        }
        sleep(BETWEEN_LOOKS);
    }
    bail!("the cart's sidecar does not listen at {CALLERS}");
}
