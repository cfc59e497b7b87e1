//! A gateway with an HTTP filter, a TCP filter and a balancer of its own; the rest is the command
//! line of harbr-router.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use harbr_router::cli;
use harbr_router::filter::{
    Context, Filter, Phases, ResponseHead, Result, TcpContext, TcpEnd, TcpFilter, TcpVerdict,
};
use harbr_router::upstream::{Balancer, Candidate, Wish};
use schemars::JsonSchema;
use serde::Deserialize;

/// Numbers the answers of a route.
struct Stamp {
    word: String,
    answers: AtomicU64,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct StampSettings {
    word: String,
}

impl Filter for Stamp {
    fn phases(&self) -> Phases {
        Phases::RESPONSE
    }

    fn response(&self, _: &mut Context<'_>, head: &mut ResponseHead<'_>) -> Result<()> {
        let nth = self.answers.fetch_add(1, Ordering::Relaxed) + 1;
        head.set("x-stamp", format!("{} {nth}", self.word))
    }
}

/// Lets in so many sessions, and no more.
struct AtMost {
    sessions: u64,
    open: AtomicU64,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AtMostSettings {
    sessions: u64,
}

#[async_trait]
impl TcpFilter for AtMost {
    async fn connect(&self, _: &TcpContext<'_>) -> Result<TcpVerdict> {
        Ok(match self.open.fetch_add(1, Ordering::SeqCst) < self.sessions {
            true => TcpVerdict::Allow,
            false => TcpVerdict::Refuse,
        })
    }

    fn close(&self, _: &TcpContext<'_>, _: &TcpEnd) {
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Never knows whom to take.
struct Clueless;

impl Balancer for Clueless {
    fn pick(&self, _: &[Candidate<'_>], wish: &Wish<'_>) -> usize {
        panic!("no idea who is good for {}", wish.upstream)
    }
}

fn main() -> ExitCode {
    cli::main_with(|gateway| {
        gateway
            .filter("stamp", |settings: StampSettings| {
                Ok(Stamp {
                    word: settings.word,
                    answers: AtomicU64::new(0),
                })
            })
            .tcp_filter("at_most", |settings: AtMostSettings| {
                if settings.sessions == 0 {
                    return Err("`sessions: 0` would let nobody in".into());
                }
                Ok(AtMost {
                    sessions: settings.sessions,
                    open: AtomicU64::new(0),
                })
            })
            .balancer("clueless", Clueless)
    })
}
