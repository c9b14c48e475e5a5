//! HTTP/2 connections that are being opened: who needs one meanwhile waits for it instead of opening
//! another, as one carries many requests.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::sync::Notify;

use super::host::Purpose;

/// The connections of one endpoint that are being opened.
#[derive(Debug, Default)]
pub(super) struct Coming(RefCell<Vec<Rc<Expected>>>);

/// One that is being opened.
#[derive(Debug)]
pub(super) struct Expected {
    purpose: Purpose,
    over: Notify,
    failed: Cell<bool>,
}

/// What there is to do for who needs a connection.
pub(super) enum Turn {
    /// Open it.
    Open(Opener),
    /// Wait for this one.
    Wait(Rc<Expected>),
}

/// Held while a connection is being opened; those who wait go on when it is dropped.
#[derive(Debug)]
pub(super) struct Opener {
    coming: Rc<Coming>,
    expected: Rc<Expected>,
}

impl Coming {
    pub(super) fn join(self: &Rc<Self>, purpose: &Purpose) -> Turn {
        let mut all = self.0.borrow_mut();
        if let Some(expected) = all.iter().find(|one| one.purpose == *purpose) {
            return Turn::Wait(expected.clone());
        }
        let over = Notify::new();
        let expected =
            Rc::new(Expected { purpose: purpose.clone(), over, failed: Cell::new(false) });
        all.push(expected.clone());
        Turn::Open(Opener { coming: self.clone(), expected })
    }
}

impl Expected {
    /// Waits until it is open or given up; whether the endpoint could not be reached.
    pub(super) async fn failed(&self) -> bool {
        self.over.notified().await;
        self.failed.get()
    }
}

impl Opener {
    /// The endpoint cannot be reached: those who wait shall find that out at the same time, not one
    /// after the other.
    pub(super) fn fail(&self) {
        self.expected.failed.set(true);
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        self.coming.0.borrow_mut().retain(|one| !Rc::ptr_eq(one, &self.expected));
        self.expected.over.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn opener(coming: &Rc<Coming>) -> Opener {
        match coming.join(&Purpose::default()) {
            Turn::Open(opener) => opener,
            Turn::Wait(_) => panic!("somebody opens one already"),
        }
    }

    fn waiting(coming: &Rc<Coming>) -> Rc<Expected> {
        match coming.join(&Purpose::default()) {
            Turn::Wait(expected) => expected,
            Turn::Open(_) => panic!("nobody opens one"),
        }
    }

    #[test]
    fn one_opens_and_the_others_wait_and_learn_how_it_went() {
        let coming = Rc::<Coming>::default();
        for fails in [false, true] {
            let first = opener(&coming);
            let expected = [waiting(&coming), waiting(&coming)];
            let mut all = expected.each_ref().map(|one| Box::pin(one.failed()));
            assert!(all.iter_mut().all(|one| one.now_or_never().is_none()));
            if fails {
                first.fail();
            }
            drop(first);
            assert!(all.into_iter().all(|one| one.now_or_never() == Some(fails)));
        }
    }

    #[test]
    fn connections_of_another_purpose_are_not_waited_for() {
        let coming = Rc::<Coming>::default();
        let _first = opener(&coming);
        let ends = ("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap());
        let other = Purpose { client: Some(ends), ..Purpose::default() };
        assert!(matches!(coming.join(&other), Turn::Open(_)));
    }
}
