//! The beginning of a request's body, read for a provider before the backend gets it.

use bytes::{Bytes, BytesMut};
use tokio::time::timeout;

use crate::base::limit;
use crate::decide::reject::Reject;
use crate::proxy::http::tee::Piece;
use crate::proxy::http::upload::{Fault, Upload};
use crate::snapshot::external::BodyInCheck;

/// A body as far as a provider is told it.
#[derive(Clone, Debug)]
pub(super) struct Beginning {
    /// Its bytes.
    pub(super) bytes: Bytes,
    /// Whether more follow.
    pub(super) partial: bool,
    /// Whether gRPC has it as bytes.
    pub(super) as_bytes: bool,
}

/// Reads as much as the rule says. What was read is kept and goes to the backend first.
pub(super) async fn beginning(upload: &Upload, rule: &BodyInCheck) -> Result<Beginning, Reject> {
    let too_long = |bytes: usize| !rule.partial && bytes > rule.most_bytes;
    let told = upload.told_length().map_or(0, |told| usize::try_from(told).unwrap_or(usize::MAX));
    if too_long(told) {
        return Err(Reject::ExternalBodyTooLong);
    }
    // One byte more than is told says that more follow.
    let enough = if rule.partial { rule.most_bytes } else { rule.most_bytes + 1 };
    while upload.early_bytes() < enough && !upload.is_read() {
        match timeout(limit::STALL_TIME, upload.read_early()).await {
            Err(_) => return Err(Reject::RequestTimeout),
            Ok(Some(Err(error))) => return Err(Fault::of(&error).reject()),
            Ok(None) => break,
            Ok(Some(Ok(()))) if too_long(upload.early_bytes()) => {
                return Err(Reject::ExternalBodyTooLong);
            }
            Ok(Some(Ok(()))) => {}
        }
    }
    let mut bytes = BytesMut::new();
    upload.each_early(|piece| {
        if let Piece::Data(data) = piece {
            let room = rule.most_bytes.saturating_sub(bytes.len());
            bytes.extend_from_slice(data.get(..room.min(data.len())).unwrap_or_default());
        }
    });
    let partial = !upload.is_read() || upload.early_bytes() > rule.most_bytes;
    Ok(Beginning { bytes: bytes.freeze(), partial, as_bytes: rule.as_bytes })
}
