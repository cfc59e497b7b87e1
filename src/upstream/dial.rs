//! From an endpoint to a connection, and what it means when there is none.
//!
//! Sessions, requests, checks and what is connected ahead reach an endpoint in the same way: at its
//! one address, or at the one of two families that answers first (RFC 8305, section 5). Invariants:
//! a family that does not answer costs at most [`ATTEMPT_DELAY`], and only until the other has
//! served; what this machine is short of is never held against an endpoint.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use nix::errno::Errno;
use tokio::net::TcpStream;
use tokio::time::timeout;

pub use super::connect_error::is_ours;
use super::endpoint::Endpoint;

/// A TCP connection to `endpoint`; [`io::ErrorKind::TimedOut`] when `patience` is over.
pub async fn connect(endpoint: &Endpoint, patience: Duration) -> io::Result<TcpStream> {
    reach(endpoint, patience, TcpStream::connect).await
}

/// As [`connect`], with what `attempt` makes of an address. An attempt that another has overtaken
/// is dropped.
pub async fn reach<T, F: Future<Output = io::Result<T>>>(
    endpoint: &Endpoint,
    patience: Duration,
    attempt: impl Fn(SocketAddr) -> F,
) -> io::Result<T> {
    let addrs = endpoint.addrs();
    let reached = async {
        let Some(second) = addrs.second else {
            return attempt(addrs.first).await;
        };
        // Where there is less time the second has half of it.
        let delay = ATTEMPT_DELAY.min(patience / 2);
        let (addr, reached) = race([addrs.first, second], delay, attempt).await?;
        endpoint.note_reached_at(addr);
        Ok(reached)
    };
    let reached = timeout(patience, reached).await;
    reached.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Which address was reached first. The second is tried when the first has failed, or has not
/// answered within `delay`.
async fn race<T, F: Future<Output = io::Result<T>>>(
    [first, second]: [SocketAddr; 2],
    delay: Duration,
    attempt: impl Fn(SocketAddr) -> F,
) -> io::Result<(SocketAddr, T)> {
    let mut one = pin!(attempt(first));
    let failed = match timeout(delay, &mut one).await {
        Ok(Ok(reached)) => return Ok((first, reached)),
        Ok(Err(error)) => Some(error),
        Err(_) => None,
    };
    let mut other = pin!(attempt(second));
    if let Some(failed) = failed {
        let reached = other.await.map_err(|error| telling(failed, error))?;
        return Ok((second, reached));
    }
    tokio::select! {
        biased;
        reached = &mut one => match reached {
            Ok(reached) => Ok((first, reached)),
            Err(failed) => {
                let reached = other.await.map_err(|error| telling(failed, error))?;
                Ok((second, reached))
            }
        },
        reached = &mut other => match reached {
            Ok(reached) => Ok((second, reached)),
            Err(failed) => {
                let reached = one.await.map_err(|error| telling(error, failed))?;
                Ok((first, reached))
            }
        },
    }
}

/// The one of two errors that says more of the server: a family that this machine does not have, or
/// has no way in, says nothing.
fn telling(first: io::Error, second: io::Error) -> io::Error {
    use Errno::*;
    let silent = [EADDRNOTAVAIL, EAFNOSUPPORT, ENETUNREACH, EHOSTUNREACH];
    let errno = second.raw_os_error().map(Errno::from_raw);
    match errno.is_some_and(|errno| silent.contains(&errno)) {
        true => first,
        false => second,
    }
}

/// How long the first family is waited for alone: RFC 8305, section 8, "Connection Attempt Delay".
pub const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;

    use tokio::time::Instant;

    use super::*;

    /// When each address was tried, and what it says after how many milliseconds.
    struct Net {
        begun: Instant,
        says: HashMap<SocketAddr, (u64, Result<(), Errno>)>,
        tried: Mutex<Vec<(SocketAddr, u64)>>,
    }

    const SIX: &str = "[::1]:80";
    const FOUR: &str = "127.0.0.1:80";
    const NEVER: u64 = u32::MAX as u64;

    fn net(six: (u64, Result<(), Errno>), four: (u64, Result<(), Errno>)) -> Net {
        Net {
            begun: Instant::now(),
            says: [(SIX, six), (FOUR, four)]
                .map(|(addr, says)| (addr.parse().unwrap(), says))
                .into(),
            tried: Mutex::default(),
        }
    }

    impl Net {
        /// Who answered, or the error; and the milliseconds that all of it took.
        async fn race(&self) -> (Result<String, Errno>, u64) {
            let both = [SIX, FOUR].map(|addr| addr.parse().unwrap());
            let attempt = |addr| async move {
                self.tried.lock().unwrap().push((addr, self.elapsed()));
                let (after, says) = self.says[&addr];
                tokio::time::sleep(Duration::from_millis(after)).await;
                says.map_err(io::Error::from)
            };
            let winner = race(both, ATTEMPT_DELAY, attempt).await;
            let winner = winner.map(|(addr, ())| addr.to_string());
            let winner = winner.map_err(|e| Errno::from_raw(e.raw_os_error().unwrap()));
            (winner, self.elapsed())
        }

        fn elapsed(&self) -> u64 {
            self.begun.elapsed().as_millis() as u64
        }

        fn tried(&self) -> Vec<u64> {
            self.tried
                .lock()
                .unwrap()
                .iter()
                .map(|(_, at)| *at)
                .collect()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_family_is_given_its_time_and_no_more() {
        use Errno::*;
        let (six, four) = (Ok(SIX.to_owned()), Ok(FOUR.to_owned()));
        for (net_six, net_four, winner, took, tried) in [
            ((10, Ok(())), (10, Ok(())), &six, 10, &[0][..]),
            ((10, Err(ECONNREFUSED)), (10, Ok(())), &four, 20, &[0, 10]),
            ((NEVER, Ok(())), (10, Ok(())), &four, 260, &[0, 250]),
            ((300, Ok(())), (300, Ok(())), &six, 300, &[0, 250]),
            (
                (300, Err(ECONNREFUSED)),
                (300, Ok(())),
                &four,
                550,
                &[0, 250],
            ),
            ((300, Ok(())), (10, Err(ECONNREFUSED)), &six, 300, &[0, 250]),
        ] {
            let net = net(net_six, net_four);
            assert_eq!(net.race().await, (winner.clone(), took));
            assert_eq!(net.tried(), tried);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_family_without_a_way_does_not_hide_why_the_other_failed() {
        use Errno::*;
        for (six, four, told) in [
            (ENETUNREACH, ECONNREFUSED, ECONNREFUSED),
            (ECONNREFUSED, ENETUNREACH, ECONNREFUSED),
            (EADDRNOTAVAIL, ECONNREFUSED, ECONNREFUSED),
            (ECONNREFUSED, EMFILE, EMFILE),
            (ENETUNREACH, EHOSTUNREACH, ENETUNREACH),
        ] {
            let failed = net((1, Err(six)), (1, Err(four))).race().await.0;
            assert_eq!(failed, Err(told));
        }
    }
}
