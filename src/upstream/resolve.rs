//! Names of backends, resolved on the control runtime and read by workers through a cell.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::op::ResponseCode;
use tokio::runtime::Handle;
use tokio::sync::SetOnce;
use tokio::time::{Instant, sleep};

use crate::base::limit;

/// What is known of one name; it is asked for again as long as somebody holds this.
#[derive(Debug, Default)]
pub struct Addresses {
    latest: ArcSwap<Vec<IpAddr>>,
    version: AtomicU32,
    answered: SetOnce<()>,
}

impl Addresses {
    /// The latest addresses in the order of the answer; none until the first good one.
    pub fn latest(&self) -> Arc<Vec<IpAddr>> {
        self.latest.load_full()
    }

    /// A number that changes with the addresses.
    pub fn version(&self) -> u32 {
        self.version.load(Ordering::Acquire)
    }

    /// Waits until the name was asked for once, whatever the outcome.
    pub async fn answered(&self) {
        self.answered.wait().await;
    }

    /// Takes an answer over and says when to ask again; what was known stays when there is none.
    fn settle(&self, name: &str, answer: Answer) -> Duration {
        match answer {
            Answer::Found(found, wait) => {
                self.set(found);
                wait
            }
            Answer::Absent(wait) => {
                tracing::warn!(name, "DNS says that the name has no address");
                self.set(Vec::new());
                wait
            }
            Answer::Failed(error) => {
                tracing::warn!(name, %error, "name could not be resolved");
                limit::DNS_RETRY_TIME
            }
        }
    }

    fn set(&self, found: Vec<IpAddr>) {
        if **self.latest.load() != found {
            self.latest.store(Arc::new(found));
            self.version.fetch_add(1, Ordering::Release);
        }
    }

    /// Takes these for DNS's answer.
    #[cfg(test)]
    pub(super) fn tell(&self, found: &[IpAddr]) {
        self.set(found.to_vec());
        let _ = self.answered.set(());
    }
}

type Names = HashMap<Arc<str>, Weak<Addresses>>;

/// Resolves names as long as somebody holds their [`Addresses`].
#[derive(Clone)]
pub struct Resolver {
    names: Arc<Mutex<Names>>,
    dns: Arc<TokioResolver>,
    runtime: Handle,
}

/// The resolver could not be made.
#[derive(Debug, thiserror::Error)]
#[error("DNS set-up failed; check /etc/resolv.conf")]
pub struct ResolverError(#[source] NetError);

impl Resolver {
    /// A resolver with the system's configuration, or where there is none (an image's root may have
    /// no file) the local machine's, as resolv.conf(5) says. Its work runs on `runtime`.
    pub fn new(runtime: Handle) -> Result<Self, ResolverError> {
        let _guard = runtime.enter();
        let builder = TokioResolver::builder_tokio().unwrap_or_else(|error| {
            tracing::warn!(%error, "no usable /etc/resolv.conf: names are asked of 127.0.0.1");
            let local = NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into());
            let config = ResolverConfig::from_name_servers(vec![local]);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        });
        let dns = builder.build().map_err(ResolverError)?;
        Ok(Self { names: Arc::default(), dns: Arc::new(dns), runtime })
    }

    /// The latest addresses of a name that is resolved; none of another.
    pub fn known(&self, name: &str) -> Vec<IpAddr> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let known = names.get(name).and_then(Weak::upgrade);
        known.map(|addresses| addresses.latest().to_vec()).unwrap_or_default()
    }

    /// The addresses of a name; resolution starts with the first call.
    pub fn addresses(&self, name: &Arc<str>) -> Arc<Addresses> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = names.get(name).and_then(Weak::upgrade) {
            return known;
        }
        names.retain(|_, addresses| addresses.strong_count() > 0);
        let addresses = Arc::<Addresses>::default();
        names.insert(name.clone(), Arc::downgrade(&addresses));
        self.runtime.spawn(follow(self.dns.clone(), name.clone(), Arc::downgrade(&addresses)));
        addresses
    }
}

#[cfg(test)]
impl Resolver {
    /// The addresses of a name that nobody is asked for.
    pub(super) fn unasked(&self, name: &Arc<str>) -> Arc<Addresses> {
        let addresses = Arc::<Addresses>::default();
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.insert(name.clone(), Arc::downgrade(&addresses));
        addresses
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

/// Asks again whenever the answer's time is over.
async fn follow(dns: Arc<TokioResolver>, name: Arc<str>, addresses: Weak<Addresses>) {
    loop {
        let answer = ask(&dns, &name).await;
        let Some(known) = addresses.upgrade() else { return };
        let wait = known.settle(&name, answer);
        let _ = known.answered.set(());
        drop(known);
        sleep(jittered(wait)).await;
        if addresses.strong_count() == 0 {
            return;
        }
    }
}

/// What DNS says, and for how long.
enum Answer {
    /// Addresses of both families.
    Found(Vec<IpAddr>, Duration),
    /// There is no such name, or it has no address.
    Absent(Duration),
    /// There is no answer: what was known stays.
    Failed(NetError),
}

async fn ask(dns: &TokioResolver, name: &str) -> Answer {
    match dns.lookup_ip(name).await {
        Ok(answer) => {
            let found = usable(answer.iter().collect());
            let until = Instant::from_std(answer.valid_until());
            let wait = until.saturating_duration_since(Instant::now());
            Answer::Found(found, wait.max(limit::DNS_MIN_TIME))
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(NoRecords {
            negative_ttl,
            response_code: ResponseCode::NXDomain | ResponseCode::NoError,
            ..
        }))) => {
            let wait =
                negative_ttl.map_or(limit::DNS_RETRY_TIME, |ttl| Duration::from_secs(ttl.into()));
            Answer::Absent(wait.clamp(limit::DNS_RETRY_TIME, limit::DNS_ABSENT_TIME))
        }
        Err(error) => Answer::Failed(error),
    }
}

/// The addresses that this machine has a route to; all of them when it has none to any.
fn usable(found: Vec<IpAddr>) -> Vec<IpAddr> {
    let routed: Vec<IpAddr> = found.iter().copied().filter(|ip| has_route(*ip)).collect();
    let mut list = if routed.is_empty() { found } else { routed };
    list.truncate(limit::DNS_ADDRESSES);
    list
}

/// Whether there is a route: connecting a datagram socket looks for one and sends nothing.
fn has_route(ip: IpAddr) -> bool {
    let own: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // Any port will do.
    std::net::UdpSocket::bind((own, 0)).is_ok_and(|socket| socket.connect((ip, 443)).is_ok())
}

/// Up to a tenth more, so that many names are not asked for at once.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(1.0 + fastrand::f64() / 10.0)
}

#[cfg(test)]
mod tests;
