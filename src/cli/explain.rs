//! `portcullis explain`: what would happen to one request.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use http::{Method, Uri};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::args::{InputArgs, RoleArgs};
use super::load::{load, no_keys, print};
use super::values;
use crate::app;
use crate::auth::jwt::JwksSource;
use crate::base::secret::Secret;
use crate::explain::{FetchedKeys, Question, explain, text};
use crate::upstream::jwks::kept;

/// Say what would happen to one request, and why, without sending anything
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ExplainArgs {
    /// https://host/path or http://host/path; tls://name:port or tcp://host:port for a connection
    #[arg(value_name = "URL")]
    url: Uri,

    #[command(flatten)]
    inputs: InputArgs,

    #[command(flatten)]
    role: RoleArgs,

    /// Method of the request
    #[arg(
        long,
        env = "PORTCULLIS_METHOD",
        value_name = "METHOD",
        default_value = "GET",
        help_heading = REQUEST
    )]
    method: Method,

    /// `:protocol` of an extended CONNECT, such as websocket (RFC 8441)
    #[arg(long, env = "PORTCULLIS_PROTOCOL", value_name = "NAME", help_heading = REQUEST)]
    protocol: Option<String>,

    /// A header of the request; repeatable
    #[arg(
        long,
        env = "PORTCULLIS_HEADER",
        value_name = "NAME: VALUE",
        value_parser = values::header,
        help_heading = REQUEST
    )]
    header: Vec<(HeaderName, HeaderValue)>,

    /// Name in the ClientHello; "" for none [default: the URL's host]
    #[arg(long, env = "PORTCULLIS_SNI", value_name = "NAME", help_heading = REQUEST)]
    sni: Option<String>,

    /// The client's certificate with its intermediates, PEM
    #[arg(long, env = "PORTCULLIS_CLIENT_CERT", value_name = "FILE", help_heading = REQUEST)]
    client_cert: Option<PathBuf>,

    /// A token, sent as `authorization: Bearer`
    #[arg(long, env = "PORTCULLIS_TOKEN", value_name = "JWT", value_parser = values::bearer, help_heading = REQUEST)]
    token: Option<Secret<HeaderValue>>,

    /// The client's address
    #[arg(
        long,
        env = "PORTCULLIS_SOURCE_IP",
        value_name = "ADDR",
        default_value = "127.0.0.1",
        help_heading = REQUEST
    )]
    source_ip: IpAddr,

    /// Folder in which a gateway keeps the key sets it fetched; or off
    #[arg(long, env = "PORTCULLIS_STATE", value_name = "DIR", help_heading = REQUEST)]
    state: Option<values::StateDir>,

    /// Form of the answer
    #[arg(
        short,
        long,
        env = "PORTCULLIS_OUTPUT",
        value_name = "FORMAT",
        default_value = "text",
        help_heading = REPORT
    )]
    output: values::OutputFormat,
}

pub(super) fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let question = args.question()?;
    let state = args.state();
    let keys =
        |source: &JwksSource| state.map_or_else(|| no_keys(source), |state| kept(state, source));
    let loaded = load(&args.role.of(args.inputs.inputs()), &keys)?;
    let told = explain(&loaded.output.snapshot, &question)?;
    print(&match args.output {
        values::OutputFormat::Text => text(&told),
        values::OutputFormat::Json => serde_json::to_string_pretty(&told)?,
    })?;
    Ok(ExitCode::SUCCESS)
}

impl ExplainArgs {
    fn state(&self) -> Option<&Path> {
        self.state.as_ref()?.0.as_deref()
    }

    fn question(&self) -> anyhow::Result<Question> {
        let mut question = Question::get(self.url.clone(), app::unix_seconds());
        question.method = self.method.clone();
        question
            .headers
            .extend(self.header.iter().cloned().map(|(name, value)| (Some(name), value)));
        question.source = self.source_ip.to_canonical();
        let (kept, absent) = (FetchedKeys::Kept, FetchedKeys::Absent);
        question.fetched = if self.state().is_some() { kept } else { absent };
        if let Some(protocol) = &self.protocol {
            question.ask_for(protocol);
        }
        if let Some(name) = &self.sni {
            question.server_name = name.to_ascii_lowercase();
        }
        if let Some(token) = &self.token {
            question.headers.insert(AUTHORIZATION, token.expose().clone());
        }
        if let Some(path) = &self.client_cert {
            let unreadable = || format!("--client-cert \"{}\" cannot be read", path.display());
            let chain = CertificateDer::pem_file_iter(path).with_context(unreadable)?;
            question.client_chain = chain.collect::<Result<_, _>>().with_context(unreadable)?;
        }
        Ok(question)
    }
}

const REQUEST: &str = "The request";
const REPORT: &str = "Report";

const EXAMPLES: &str = "\
Examples:
  portcullis explain https://shop.example.com/cart
  portcullis explain https://shop.example.com/cart --method POST --token \"$TOKEN\"
  portcullis explain https://admin.example.com/ --client-cert certs/client/tls.crt
  portcullis explain https://shop.example.com/live --protocol websocket
  portcullis explain tls://legacy.example.com:443 -o json | jq .outcome

Keys that are fetched (jwksUri) are not fetched here: --state takes those that a gateway kept, and a running
one explains with the keys that it has: curl 'http://127.0.0.1:15000/explain?url=https://shop.example.com/cart'

Exit codes:
  0  explained, whatever the outcome
  1  the configuration cannot be read, or the URL is none
  2  the command line is wrong";
