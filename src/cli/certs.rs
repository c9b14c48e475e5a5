//! `portcullis certs`: certificates to develop with.
//!
//! **Invariant:** what exists is kept; running it twice changes nothing.

mod folder;
mod pki;

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use rcgen::SanType;
use time::OffsetDateTime;

use self::folder::{Access, File};
use self::pki::{Authority, Leaf, Pair};
use super::values;
use crate::app::settings::DEFAULT_TRUST_DOMAIN;
use crate::base::secret::Secret;

/// The service account that Istio's charts give an ingress gateway.
pub(super) const DEFAULT_SERVICE_ACCOUNT: &str = "istio-ingressgateway-service-account";

/// Make the certificates to develop with; never overwrites
///
/// Makes an edge authority with a server certificate for each sample host, a mesh authority with the
/// gateway's identity and a backend's, and a client authority with a client. All keys are P-256;
/// certificates last a year. For development only: the authorities' keys lie beside what they sign.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CertsArgs {
    /// Folder to make them in
    #[arg(long, env = "PORTCULLIS_CERTS", value_name = "DIR", default_value = "certs/")]
    pub(super) certs: PathBuf,

    /// One more name in the certificate shop-tls, a wildcard too; repeatable
    #[arg(
        long,
        env = "PORTCULLIS_HOST",
        value_name = "NAME",
        value_delimiter = ',',
        value_parser = values::dns_name
    )]
    pub(super) host: Vec<String>,

    /// Trust domain of the mesh
    #[arg(
        long,
        env = "PORTCULLIS_TRUST_DOMAIN",
        value_name = "DOMAIN",
        default_value = DEFAULT_TRUST_DOMAIN,
        value_parser = values::trust_domain
    )]
    pub(super) trust_domain: String,

    /// Namespace in the gateway's identity
    #[arg(
        long,
        env = "PORTCULLIS_NAMESPACE",
        default_value = "istio-system",
        value_parser = values::namespace
    )]
    pub(super) namespace: String,

    /// Service account in the gateway's identity
    #[arg(
        long,
        env = "PORTCULLIS_SERVICE_ACCOUNT",
        value_name = "NAME",
        default_value = DEFAULT_SERVICE_ACCOUNT
    )]
    pub(super) service_account: String,
}

pub(super) fn run(args: &CertsArgs) -> anyhow::Result<ExitCode> {
    let report = make(args, OffsetDateTime::now_utc())?;
    std::io::stdout().write_all(report.as_bytes()).context("cannot write to standard output")?;
    Ok(ExitCode::SUCCESS)
}

/// Makes what is missing; says for each folder what it is.
pub(super) fn make(args: &CertsArgs, now: OffsetDateTime) -> anyhow::Result<String> {
    let mut work = Work { root: &args.certs, now, report: String::new() };
    let edge = work.authority("edge-ca", "portcullis development edge CA")?;
    let mesh = work.authority("mesh-ca", "portcullis development mesh CA")?;
    let clients = work.authority("client-ca", "portcullis development client CA")?;

    work.leaf("shop-tls", &edge, Shape::Secret, server(&shop_names(&args.host))?)?;
    let admin = Shape::SecretWithCa(&clients.certificate);
    work.leaf("admin-tls", &edge, admin, server(&["admin.example.com"])?)?;
    work.leaf("legacy", &edge, Shape::Secret, server(&["legacy.example.com"])?)?;

    let alice = Leaf::Client { name: "alice".to_owned(), mail: pki::mail("alice@example.com")? };
    work.leaf("client", &clients, Shape::Secret, alice)?;

    let td = &args.trust_domain;
    let gateway = format!("spiffe://{td}/ns/{}/sa/{}", args.namespace, args.service_account);
    let gateway = Leaf::Workload { names: vec![pki::uri(&gateway)?] };
    work.leaf("identity", &mesh, Shape::Identity, gateway)?;
    let cart = format!("spiffe://{td}/ns/shop/sa/cart");
    let cart = Leaf::Workload { names: vec![pki::uri(&cart)?, pki::dns("cart.shop.internal")?] };
    work.leaf("backend", &mesh, Shape::Identity, cart)?;

    let certs = args.certs.display();
    write!(work.report, "\nnext: portcullis check --certs {certs}\n")?;
    Ok(work.report)
}

/// The names in `shop-tls`.
fn shop_names(hosts: &[String]) -> Vec<&str> {
    let fixed = ["shop.example.com", "*.shop.example.com", "shop.localhost", "localhost"];
    fixed.into_iter().chain(hosts.iter().map(String::as_str)).collect()
}

/// A server on this machine with these names.
fn server(names: &[&str]) -> anyhow::Result<Leaf> {
    let mut names = names.iter().map(|name| pki::dns(name)).collect::<Result<Vec<_>, _>>()?;
    names.push(SanType::IpAddress(Ipv4Addr::LOCALHOST.into()));
    names.push(SanType::IpAddress(Ipv6Addr::LOCALHOST.into()));
    Ok(Leaf::Server { names })
}

/// An authority, its own certificate, and whether it was made just now.
struct Root {
    authority: Authority,
    certificate: String,
    origin: Origin,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Made,
    Kept,
}

/// Which files a folder holds.
#[derive(Clone, Copy)]
enum Shape<'a> {
    /// `tls.crt` and `tls.key`, as a Kubernetes TLS Secret.
    Secret,
    /// The same and `ca.crt`, holding the authority that clients must come from.
    SecretWithCa(&'a str),
    /// `cert-chain.pem`, `key.pem` and `root-cert.pem`, as Istio's agent has them.
    Identity,
}

impl Shape<'_> {
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Secret => &["tls.crt", "tls.key"],
            Self::SecretWithCa(_) => &["tls.crt", "tls.key", "ca.crt"],
            Self::Identity => &["cert-chain.pem", "key.pem", "root-cert.pem"],
        }
    }
}

/// What is being done in one folder of folders.
struct Work<'a> {
    root: &'a Path,
    now: OffsetDateTime,
    report: String,
}

impl Work<'_> {
    /// The authority in a folder, made if it is not there.
    fn authority(&mut self, name: &str, subject: &str) -> anyhow::Result<Root> {
        let folder = self.root.join(name);
        let (pair, origin) = if folder::holds(&folder, Shape::Secret.names())? {
            let certificate = folder::read(&folder, "tls.crt")?;
            let key = Secret::new(folder::read(&folder, "tls.key")?);
            (Pair { certificate, key }, Origin::Kept)
        } else {
            let pair = Authority::create(subject, self.now)?;
            write(&folder, Shape::Secret, &pair, "")?;
            (pair, Origin::Made)
        };
        let authority = Authority::load(&pair).with_context(|| folder.display().to_string())?;
        self.say(&folder, origin, "")?;
        Ok(Root { authority, certificate: pair.certificate, origin })
    }

    /// The certificate in a folder, issued if it is not there.
    fn leaf(&mut self, name: &str, by: &Root, shape: Shape<'_>, leaf: Leaf) -> anyhow::Result<()> {
        let folder = self.root.join(name);
        if folder::holds(&folder, shape.names())? {
            let stale = match by.origin {
                Origin::Made => "  not issued by the new CA: remove it to have it made anew",
                Origin::Kept => "",
            };
            return self.say(&folder, Origin::Kept, stale);
        }
        let pair = by.authority.issue(leaf, self.now)?;
        write(&folder, shape, &pair, &by.certificate)?;
        self.say(&folder, Origin::Made, "")
    }

    fn say(&mut self, folder: &Path, origin: Origin, note: &str) -> anyhow::Result<()> {
        let done = match origin {
            Origin::Made => "made",
            Origin::Kept => "kept",
        };
        Ok(writeln!(self.report, "{done}  {}{note}", folder.display())?)
    }
}

/// Writes a pair in the shape asked for, with the certificate of who issued it.
fn write(folder: &Path, shape: Shape<'_>, pair: &Pair, issuer: &str) -> anyhow::Result<()> {
    let (certificate, key, ca) = match shape {
        Shape::Secret => ("tls.crt", "tls.key", None),
        Shape::SecretWithCa(ca) => ("tls.crt", "tls.key", Some(("ca.crt", ca))),
        Shape::Identity => ("cert-chain.pem", "key.pem", Some(("root-cert.pem", issuer))),
    };
    let mut files = vec![
        File { name: key, text: pair.key.expose(), access: Access::Owner },
        File { name: certificate, text: &pair.certificate, access: Access::Public },
    ];
    files.extend(ca.map(|(name, text)| File { name, text, access: Access::Public }));
    Ok(folder::write(folder, &files)?)
}

const EXAMPLES: &str = "\
Made under --certs:
  edge-ca/    authority of the hosts; give curl its tls.crt with --cacert
  shop-tls/   shop.example.com, *.shop.example.com, shop.localhost, localhost, each --host
  admin-tls/  admin.example.com, with the client authority as ca.crt
  legacy/     legacy.example.com, for a backend that ends TLS itself
  client-ca/  authority of clients
  client/     alice, a client that admin.example.com lets in
  mesh-ca/    authority of the mesh
  identity/   this gateway in the mesh
  backend/    spiffe://TRUST-DOMAIN/ns/shop/sa/cart, for a backend in the mesh

Examples:
  portcullis certs
  portcullis certs --certs /tmp/pki --host www.example.org --host '*.example.org'
  portcullis certs --trust-domain prod.example.com --namespace edge --service-account gateway

Exit codes:
  0  all of it is there
  1  something could not be read or written
  2  the command line is wrong";

#[cfg(test)]
mod tests;
