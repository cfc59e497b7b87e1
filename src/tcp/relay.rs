//! Two-way copy between a client and a server.
//!
//! Every byte of every database passes here. Invariants: what one side wrote before it ended
//! reaches the other, in order and once; an end is passed on as an end (and the other direction
//! goes on), a reset as a reset, which may overtake what a slow peer has not received, as it does
//! without a gateway, but for one that only our own first bytes have caused; neither direction can
//! starve the other, nor the relay its runtime; a session at rest holds no buffer, pipe or timer.
//!
//! One task moves both directions: `pair` is both with their sockets, `flow` one of them, `socket`
//! what it needs of a socket, `pipe` holds the pipes for bulk, `clock` is the one timer.

mod clock;
mod ended;
mod flow;
mod options;
mod pair;
mod pipe;
mod socket;
#[cfg(test)]
mod tests;

pub use self::ended::{Ended, Rest};
pub use self::options::{
    Asking, GracefulEnd, Idle, Observer, Relay, Seen, ServerBehavior, SilentClient,
};
pub use self::pipe::Pipes;
pub use self::socket::close_with_reset;
