//! The connections that each user has to a socket, so that none takes the room of all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::base::limit;

/// Connections by user id.
#[derive(Clone, Debug, Default)]
pub(super) struct Shares(Arc<Mutex<HashMap<u32, usize>>>);

/// One connection of a user; given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    shares: Shares,
    user: u32,
}

impl Shares {
    /// One more connection; nothing when the user has its share.
    pub(super) fn take(&self, user: u32) -> Option<Share> {
        let mut counts = self.counts();
        let count = counts.entry(user).or_default();
        (*count < limit::CA_USER_CONNECTIONS).then(|| {
            *count += 1;
            Share { shares: self.clone(), user }
        })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<u32, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut counts = self.shares.counts();
        if let Some(count) = counts.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_its_share_and_no_more() {
        let shares = Shares::default();
        let mut held: Vec<_> = (0..limit::CA_USER_CONNECTIONS).map(|_| shares.take(1)).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(shares.take(1).is_none());
        assert!(shares.take(2).is_some());
        held.pop();
        assert!(shares.take(1).is_some());
        drop(held);
        assert!(shares.counts().is_empty());
    }
}
