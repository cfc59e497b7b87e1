//! Refusing a client in its own protocol.
//!
//! The only place that decides which refusal a reason is; the bytes are `wire/refusal.rs`'s.
//! Invariants: a refusal takes at most a few seconds and reads a bounded amount; it lingers, so
//! that the client reads it before the connection is closed.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::config::DbType;
use crate::error::Reason;
use crate::route::TcpRoute;
use crate::transport::Transport;
use crate::upstream::Encryption;
use crate::wire::postgres::CancelKey;
use crate::wire::refusal::{OnTls, Refusal, Refuser, Step};
use crate::wire::{mysql, postgres};

/// Refuses the client of a route, which ended with `reason` before a server connection stood.
/// `first` is what it sent so far. Returned is what it turns out to want after all, and itself,
/// which then has received nothing.
pub async fn client(
    stream: Transport,
    route: &TcpRoute,
    reason: Reason,
    first: &[u8],
) -> Option<(CancelKey, Transport)> {
    let refusal = refusal(reason)?;
    // Of servers that nobody has asked yet nothing is known: then most clients, which ask and take
    // no for an answer, shall read what is wrong.
    let on_tls = match route.upstream.encryption() {
        Some(Encryption::Offered) => OnTls::Alert,
        Some(Encryption::Declined) | None => OnTls::Decline,
    };
    let refuser = Refuser::new(route.db_type, refusal, reason.as_str()).on_tls(on_tls);
    tell(stream, refuser, first).await
}

/// Refuses a client whose protocol no route determines.
pub async fn unmatched(stream: Transport, reason: Reason, first: &[u8]) {
    let Some(refusal) = refusal(reason) else {
        return;
    };
    let refuser = Refuser::sniffing(refusal, reason.as_str());
    // A listener without a Postgres route has nobody to cancel anything of.
    let _cancel = tell(stream, refuser, first).await;
}

/// Says goodbye to a client whose session is over although neither side ended it. Only Postgres
/// has a word for that, and only where its server has ended a message: `last` are its last bytes.
/// As from a server that ends, it may be the answer to a query.
pub async fn goodbye(
    mut stream: Transport,
    db_type: DbType,
    reason: Reason,
    last: Option<[u8; 6]>,
) {
    if db_type != DbType::Postgres || !last.is_some_and(postgres::ends_ready) {
        return;
    }
    let why = "terminating connection due to administrator command";
    let message = postgres::error_response("57P01", &format!("{why} ({reason})"));
    let _ = timeout(PATIENCE, stream.write_all(&message)).await;
    let _ = timeout(PATIENCE, stream.shutdown()).await;
    // What lies unread, or is on its way, would turn the close into a reset.
    let rest = async { while stream.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {} };
    let _ = timeout(CROSSING, rest).await;
}

/// Closes in order a client that has received everything. What it has sent, or sends meanwhile,
/// would turn the close into a reset.
pub async fn linger(mut stream: Transport) {
    let rest = async {
        stream.shutdown().await?;
        let mut nothing = [0; 1024];
        while stream.read(&mut nothing).await? > 0 {}
        Ok::<(), std::io::Error>(())
    };
    let _ = timeout(PATIENCE, rest).await;
}

/// Leaves a MySQL or MariaDB server whose client went before it said a byte: by a login that is
/// refused, because a handshake that just ends is counted against our address.
pub async fn leave_mysql(mut server: Transport) {
    let goodbye = async {
        server.write_all(&mysql::leave()).await?;
        server.shutdown().await?;
        let mut nothing = [0; 1024];
        while server.read(&mut nothing).await? > 0 {}
        Ok::<(), std::io::Error>(())
    };
    let _ = timeout(PATIENCE, goodbye).await;
}

/// Which refusal a reason is. `None`: there is no client to receive it.
fn refusal(reason: Reason) -> Option<Refusal> {
    match reason {
        Reason::QueueTimeout => Some(Refusal::QueueTimeout),
        Reason::TooManyConnections => Some(Refusal::TooManyConnections),
        Reason::Drained | Reason::HandedOver => Some(Refusal::ShuttingDown),
        Reason::Unmatched | Reason::NoRoute => Some(Refusal::NoRoute),
        Reason::FilterRefused => Some(Refusal::NotAllowed),
        Reason::ClientClosed => None,
        _ => Some(Refusal::Unavailable),
    }
}

async fn tell(
    mut stream: Transport,
    mut refuser: Refuser,
    first: &[u8],
) -> Option<(CancelKey, Transport)> {
    let talk = async {
        let mut step = refuser.advance(first);
        let mut buffer = [0; 1024];
        for _ in 0..MAX_STEPS {
            match step {
                Step::Done(last) => {
                    stream.write_all(&last).await?;
                    break;
                }
                Step::Send(bytes) => {
                    stream.write_all(&bytes).await?;
                    stream.flush().await?;
                    step = refuser.advance(b"");
                    if !matches!(step, Step::NeedMore) {
                        continue;
                    }
                }
                Step::NeedMore => {}
                Step::Cancel(key) => return Ok(Some(key)),
            }
            let read = stream.read(&mut buffer).await?;
            if read == 0 {
                break;
            }
            step = refuser.advance(&buffer[..read]);
        }
        stream.shutdown().await?;
        // What the client sent meanwhile would turn our close into a reset, and it would never
        // read the refusal.
        while stream.read(&mut buffer).await? > 0 {}
        Ok::<_, std::io::Error>(None)
    };
    match timeout(PATIENCE, talk).await {
        Ok(Ok(Some(key))) => Some((key, stream)),
        _ => None,
    }
}

/// For what a client says before it has read that its session is over.
const CROSSING: Duration = Duration::from_millis(200);
/// For a client to read its refusal and go.
const PATIENCE: Duration = Duration::from_secs(2);
/// Reads of a client that negotiates on and on.
const MAX_STEPS: usize = 64;
