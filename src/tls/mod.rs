//! TLS that ends here: certificates, the choice between them, the handshake, the session after it.
//!
//! [`ServerTls`] is what the files of the `tls` section say, read and checked; [`TlsHandle`] is the
//! pointer to it that renewed files swap. [`handshake()`] turns an accepted socket into a
//! [`Transport`](crate::transport::Transport) within its time, or says by which cause it failed.
//! Invariants: TLS 1.2 and 1.3 only, never early data (RFC 8446, section 8); a session resumed under
//! other rules for clients' certificates is impossible, because those have other ticket keys.

mod by_name;
mod certificate;
mod client;
mod handle;
mod handshake;
mod ocsp;
mod pem;
mod policies;
mod server_tls;
mod session;

pub use client::{ClientCertificate, ClientTls};
pub use handle::TlsHandle;
pub use handshake::{FailureCause, HandshakeFailed, Handshaken, handshake};
pub use server_tls::{CertificateInfo, ServerTls};
