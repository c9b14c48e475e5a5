//! How long a request may take: the rule's timeout, and what a gRPC client gives it.

use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use tokio::time::sleep;

use super::body::Expiry;
use super::upload::Upload;
use crate::base::header::GRPC_TIMEOUT;
use crate::decide::reject::Reject;
use crate::proxy::standing::Standing;

/// The end of a request's time, or of its being allowed.
pub fn or_refused(expiry: Option<Expiry>, standing: Option<&Rc<Standing>>) -> Option<Expiry> {
    let Some(standing) = standing.cloned() else { return expiry };
    Some(Box::pin(async move {
        let expired = async {
            match expiry {
                None => std::future::pending().await,
                Some(expiry) => expiry.await,
            }
        };
        tokio::select! {
            reject = expired => reject,
            reject = standing.refused() => reject,
        }
    }))
}

/// The end of a request's time: the rule's is counted from the end of the request, a gRPC client's
/// from now, as it counts itself. Nothing when neither is given.
pub fn expiry(
    upload: &Rc<Upload>,
    route: Option<Duration>,
    grpc: Option<Duration>,
) -> Option<Expiry> {
    if route.is_none() && grpc.is_none() {
        return None;
    }
    let upload = upload.clone();
    Some(Box::pin(async move {
        let route = async {
            match route {
                None => std::future::pending().await,
                Some(time) => {
                    upload.finished().await;
                    sleep(time).await;
                }
            }
        };
        let grpc = async {
            match grpc {
                None => std::future::pending().await,
                Some(time) => sleep(time).await,
            }
        };
        tokio::select! {
            () = route => Reject::Timeout,
            () = grpc => Reject::GrpcDeadline,
        }
    }))
}

/// What comes first: the end of the work, or of its time. The work stays where it is: it is large.
pub async fn within<T>(
    expiry: &mut Option<Expiry>,
    work: Pin<&mut impl Future<Output = Result<T, Reject>>>,
) -> Result<T, Reject> {
    match expiry {
        None => work.await,
        Some(expiry) => tokio::select! {
            done = work => done,
            reject = expiry => Err(reject),
        },
    }
}

/// `grpc-timeout`: at most eight digits and a unit.
pub fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT).map(HeaderValue::to_str)?.ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_hours(amount),
        "M" => Duration::from_mins(amount),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &'static str, expected: Option<Duration>) {
        let headers = HeaderMap::from_iter([(GRPC_TIMEOUT, HeaderValue::from_static(text))]);
        assert_eq!(grpc_timeout(&headers), expected, "{text}");
    }

    #[test]
    fn grpc_timeouts_have_a_unit() {
        check("100m", Some(Duration::from_millis(100)));
        check("99999999H", Some(Duration::from_hours(99_999_999)));
        check("2S", Some(Duration::from_secs(2)));
        for bad in ["", "m", "5", "123456789S", "-1S", "1x", "1 S"] {
            check(bad, None);
        }
    }
}
