//! A login as a conversation: its steps, its outcome, and what was received of it.

/// What a server is in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Takes writes.
    Primary,
    /// Follows a primary, or was set to be read only.
    Replica,
}

/// How many promotions a primary's history has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Term {
    /// Which history: terms of others mean nothing beside it.
    pub group: u64,
    /// Compared within one `group`: the higher number is the later primary.
    pub number: u64,
}

/// What to do next in a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginStep {
    /// Read more of the server.
    NeedMore,
    /// Write this, then read more.
    Send(Vec<u8>),
    /// Logged in and answered. Write the termination (it may be empty) and close.
    Done {
        /// Primary or replica.
        role: Role,
        /// What to write before the close; may be empty.
        termination: Vec<u8>,
    },
    /// Close. The text is fit for a log: what the server said, or what it lacks.
    Failed(String),
}

/// One login, from the connect to the termination. After [`LoginStep::Done`] or
/// [`LoginStep::Failed`] it is over.
pub trait Login: Send {
    /// What to write at once; empty where the server speaks first.
    fn start(&mut self) -> Vec<u8>;

    /// Takes the server's next bytes, cut anywhere.
    fn advance(&mut self, bytes: &[u8]) -> LoginStep;

    /// Of a primary, once done: its term, where it has one and says it.
    fn term(&self) -> Option<Term> {
        None
    }

    /// Leaves the term out: for servers that were asked for it before and do not know it.
    fn spare_term(&mut self) {}
}

/// Most bytes of a server held at once.
const MAX_HELD_BYTES: usize = 64 * 1024;

/// Most bytes read in one login.
const MAX_READ_BYTES: usize = 1024 * 1024;

/// What a server sent and the login has not consumed; bounded.
#[derive(Default)]
pub(super) struct Held {
    pub(super) bytes: Vec<u8>,
    read: usize,
}

impl Held {
    /// Adds to what is held; an error when the server sends more than any login takes.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.read = self.read.saturating_add(bytes.len());
        if self.read > MAX_READ_BYTES || self.bytes.len() + bytes.len() > MAX_HELD_BYTES {
            return Err("the server sent more than a login needs".into());
        }
        self.bytes.extend(bytes);
        Ok(())
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.bytes.drain(..count);
    }
}
