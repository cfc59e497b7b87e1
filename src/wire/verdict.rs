//! What a server's answer to a health probe says.

/// What an answer says so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The answer fits so far, and more of it is needed.
    NeedMore,
    /// The server speaks the protocol and takes clients.
    Alive,
    /// Up but not serving, or not this protocol; the text is what the server said, printable.
    Refused(String),
}
