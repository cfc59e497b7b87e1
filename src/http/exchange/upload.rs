//! The body that the client sends, as far as it has come.

/// The upload of one request.
#[derive(Default)]
pub(in crate::http) struct Upload {
    /// The body is still coming from the client.
    pub(in crate::http) pending: bool,
    /// The client may wait for `100 Continue` before it sends its body, and none came yet.
    pub(in crate::http) expects_continue: bool,
    /// Body bytes of this try so far.
    pub(in crate::http) bytes: u64,
}

impl Upload {
    /// Neither has the endpoint asked for the body nor has the client begun it: the clock of
    /// `timeout_ms` runs, although the body is not in.
    pub(in crate::http) fn awaits_continue(&self) -> bool {
        self.pending && self.expects_continue && self.bytes == 0
    }
}
