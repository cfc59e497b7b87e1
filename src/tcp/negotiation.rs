//! Whether a Postgres session is encrypted, settled before it begins.
//!
//! A client that asks for TLS and receives `N` need not begin a session: it may send a
//! CancelRequest, which belongs to another server than the one that answered. So its next packet is
//! read before anything is passed on. Invariants: a client receives what its own server answers;
//! where it was answered before that server was picked, the server is asked all the same and the
//! session ends if it answers otherwise; a server that only answered `N` has seen nothing of a
//! session, and is not given to another client.

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use super::connect::{Connected, Warmth, departure};
use super::encryption::{PostgresTls, Settled};
use super::opening;
use super::routed::Routed;
use crate::config::{DbType, TcpProxy};
use crate::error::Reason;
use crate::transport::Transport;
use crate::upstream::{Encryption, Outcome};
use crate::wire::postgres::{self, Start};

impl Routed<'_> {
    /// Asks the server for TLS in the client's place and answers the client where that is still
    /// due. `Err`: the client, which has sent `first`, is still to be refused.
    pub(super) async fn settle_encryption(
        &mut self,
        settings: &TcpProxy,
        connected: Connected,
        stream: &mut Transport,
        first: &mut BytesMut,
    ) -> Result<(Connected, Settled), Reason> {
        let cut_off = self.sessions.cut_off();
        let settled = async {
            let (mut connected, answer) = tokio::select! {
                biased;
                answered = self.answer(connected) => answered?,
                () = departure(stream, first, DbType::Postgres) => return Err(Reason::ClientClosed),
            };
            // The server's process for this client is there: the next one may be forked.
            if let Some(next) = connected.next.take() {
                next.start();
            }
            let settled = match (answer, self.tls) {
                (None, _) => Err(self.unanswered()),
                (Some(answer), PostgresTls::Promised) => self.promised(&connected, answer),
                (Some(answer), PostgresTls::Denied) => self.denied(&connected, answer),
                (Some(answer), PostgresTls::Asked | PostgresTls::No) => {
                    self.asked(settings, answer, stream, first).await
                }
            };
            match settled {
                Ok(settled) => Ok((connected, settled)),
                Err(reason) => {
                    self.give_back(connected, reason);
                    Err(reason)
                }
            }
        };
        tokio::select! {
            biased;
            () = cut_off => Err(Reason::Drained),
            settled = settled => settled,
        }
    }

    fn give_back(&self, connected: Connected, reason: Reason) {
        if reason == Reason::UpstreamReset {
            self.sessions.warm.flush(connected.lease.endpoint());
        }
        connected.lease.finish(match reason {
            Reason::UpstreamReset | Reason::UpstreamError => Outcome::Failed,
            _ => Outcome::Neutral,
        });
    }

    /// The server's one byte; `None` when none comes.
    async fn answer(
        &mut self,
        mut connected: Connected,
    ) -> Result<(Connected, Option<u8>), Reason> {
        let mut answer = self.ask_for_tls(&mut connected.server).await;
        if answer.is_none() && connected.warmth == Warmth::Warm {
            // Dead before any byte came back: replaced once, unseen.
            (connected.server, connected.lease) = self.instead(connected.lease).await?;
            answer = self.ask_for_tls(&mut connected.server).await;
        }
        connected.warmth = Warmth::Fresh;
        if let Some(encryption) = answer.and_then(Encryption::from_ssl_answer) {
            connected.lease.endpoint().note_encryption(encryption);
        }
        Ok((connected, answer))
    }

    /// Exactly the server's one byte is read; `None` when none comes.
    async fn ask_for_tls(&self, server: &mut Transport) -> Option<u8> {
        let ask = async {
            server.write_all(&postgres::SSL_REQUEST).await?;
            server.flush().await?;
            server.read_u8().await
        };
        timeout_at(self.deadline, ask).await.ok()?.ok()
    }

    /// The client was answered `S`. Whether its server answers that, too.
    fn promised(&self, connected: &Connected, answer: u8) -> Result<Settled, Reason> {
        if answer == b'S' {
            return Ok(Settled::Encrypted);
        }
        let lease = &connected.lease;
        lease.failed("no TLS, although its route is chosen by server name");
        Err(Reason::UpstreamError)
    }

    /// The client was answered `N`, as its servers have answered of late.
    fn denied(&self, connected: &Connected, answer: u8) -> Result<Settled, Reason> {
        match answer {
            b'N' => Ok(Settled::InClear(Bytes::new())),
            // It would have gone on in TLS.
            b'S' => {
                log::info!(
                    "{}: a server has TLS now, its next clients are told; endpoint={}",
                    self.route.label,
                    connected.lease.endpoint().label()
                );
                Err(Reason::UpstreamError)
            }
            // An error message, most likely: its other bytes follow.
            other => Ok(Settled::InClear(Bytes::copy_from_slice(&[other]))),
        }
    }

    /// Passes the server's answer on. After a no the client's next packet decides.
    async fn asked(
        &self,
        settings: &TcpProxy,
        answer: u8,
        stream: &mut Transport,
        first: &mut BytesMut,
    ) -> Result<Settled, Reason> {
        first.advance(postgres::SSL_REQUEST.len());
        match answer {
            b'N' => {}
            b'S' if first.is_empty() => {
                opening::reply(stream, answer).await?;
                return Ok(Settled::Encrypted);
            }
            // Sent in clear before TLS stood: a man in the middle may have (CVE-2021-23214).
            b'S' => return Err(Reason::BadRequest),
            // An error message, most likely: its other bytes follow.
            _ => return Ok(Settled::InClear(Bytes::copy_from_slice(&[answer]))),
        }
        opening::reply(stream, answer).await?;
        let until = Instant::now() + settings.sniff_timeout;
        let mut asked_for_gssapi = false;
        loop {
            match postgres::parse_start(first) {
                Start::NeedMore => opening::read(stream, first, until).await?,
                Start::Cancel(key) => return Ok(Settled::Cancel(key)),
                Start::Gssenc if !asked_for_gssapi => {
                    asked_for_gssapi = true;
                    first.advance(postgres::GSSENC_REQUEST.len());
                    opening::reply(stream, b'N').await?;
                }
                // What is wrong with it, the server reports.
                _ => return Ok(Settled::InClear(Bytes::new())),
            }
        }
    }

    fn unanswered(&self) -> Reason {
        match Instant::now() < self.deadline {
            true => Reason::UpstreamReset,
            false => Reason::Timeout,
        }
    }
}
