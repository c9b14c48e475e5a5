//! What is sent and logged for a reason.

/// Whose fault an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// What the client sent.
    Client,
    /// What the operator decided.
    Policy,
    /// What the backend did.
    Upstream,
}

/// The fixed parts of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status; 0 when nobody is left to answer.
    pub status: u16,
    /// Body for the client; empty for none.
    pub body: &'static str,
    /// Envoy's response flag; `-` for none.
    pub flag: &'static str,
    /// Envoy's response code details.
    pub details: &'static str,
    /// Our stable reason code.
    pub code: &'static str,
    /// Whose fault it is.
    pub blame: Blame,
}

pub(in crate::decide) const fn answer(
    status: u16,
    body: &'static str,
    flag: &'static str,
    details: &'static str,
    code: &'static str,
) -> Answer {
    Answer { status, body, flag, details, code, blame: Blame::Client }
}

impl Answer {
    pub(super) const fn blame(self, blame: Blame) -> Self {
        Self { blame, ..self }
    }

    /// The same after the last try.
    pub(super) fn exhausted(self) -> Self {
        let flag = match self.flag {
            "UC" => "UC,URX",
            "UR" => "UR,URX",
            "UPE" => "UPE,URX",
            "UT" => "UT,URX",
            other => other,
        };
        Self { flag, ..self }
    }
}
